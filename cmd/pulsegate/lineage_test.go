package main_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	main "github.com/pulsegate/pulsegate/cmd/pulsegate"
)

// Two gateways that live must never have one name: each would take the other's leases for those of a dead process.
func TestLineageIsOneLivingProcessAndThenTheNext(t *testing.T) {
	data := t.TempDir()
	first, leave := main.OpenLineage(data)
	second, leaveToo := main.OpenLineage(data)
	require.NotEmpty(t, first)
	require.NotEmpty(t, second)
	require.NotEqual(t, first, second, "both live")
	leave()
	again, leaveAgain := main.OpenLineage(data)
	require.Equal(t, first, again, "it has ended, and this one is started in its place")
	leaveToo()
	leaveAgain()

	copied := t.TempDir()
	for _, name := range []string{"gateway-0.name", "gateway-1.name"} {
		text, err := os.ReadFile(filepath.Join(data, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(copied, name), text, 0o600))
	}
	elsewhere, leaveElsewhere := main.OpenLineage(copied)
	require.NotContains(t, []string{first, second}, elsewhere, "a copy of the directory is another place")
	leaveElsewhere()
}
