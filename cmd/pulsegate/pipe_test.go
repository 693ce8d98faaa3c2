package main_test

import (
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	main "github.com/pulsegate/pulsegate/cmd/pulsegate"
)

// The in-process store answers a pipeline command by command, and over a plain pipe a long one would never come to its end.
func TestInProcessStoreAnswersALongPipeline(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no redis-server there
	s, err := main.OpenStore(t.Context(), "", t.TempDir(), false, io.Discard)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Stop(t.Context())) }()
	p := s.Client.Pipeline()
	for i := range 200 { // few enough to be answered in time on a busy machine, and more than a plain pipe lets through
		p.HSet(t.Context(), fmt.Sprint("registration ", i), "field", "value")
		p.HGetAll(t.Context(), fmt.Sprint("registration ", i))
	}
	answers, err := p.Exec(t.Context())
	require.NoError(t, err)
	require.Len(t, answers, 400)
}
