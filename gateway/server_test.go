package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/gateway"
)

// listen serves the stage's public face on a port of its own until the test ends.
func (s *stage) listen(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := gateway.Server("", s.gateway.Handler())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
	return l.Addr().String()
}

// raw sends a request as it is written and returns the answer.
func raw(t testing.TB, addr, request string, body io.Reader) *http.Response {
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(conn, request)
	require.NoError(t, err)
	if body != nil {
		_, _ = io.Copy(conn, body) // the server may hang up first
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func TestHostileRequestsAreEndedByTheServer(t *testing.T) {
	s := newStage(t)
	addr := s.listen(t)
	post := "POST /bots/v3/events HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer " + s.as(t, gateway.ScopeSource, "acme") + "\r\n"

	res := raw(t, addr, post+fmt.Sprintf("Content-Length: %d\r\n\r\n", 8<<20+1), nil)
	require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode, "length over the limit, before a byte of the body")
	require.True(t, res.Close)

	res = raw(t, addr, post+"Content-Length: 9999999999999999999999\r\n\r\n", nil)
	require.Equal(t, http.StatusBadRequest, res.StatusCode)

	res = raw(t, addr, post+"X-Large: "+strings.Repeat("x", 24<<10)+"\r\n\r\n", nil)
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, res.StatusCode)

	res = raw(t, addr, "GET /bots/v3/registrations/%zz HTTP/1.1\r\nHost: gw\r\n\r\n", nil)
	require.Equal(t, http.StatusBadRequest, res.StatusCode)

	res = raw(t, addr, post+"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n", strings.NewReader("{}"))
	require.Contains(t, []int{http.StatusContinue, http.StatusUnprocessableEntity}, res.StatusCode)
}

func TestSlashesInPathValuesReachTheirHandlerOverTheNetwork(t *testing.T) {
	s := newStage(t)
	s.register(t, "acme/own", "LIVE")
	s.post(t, message("urn:mbid:a/b c", "1"))
	addr := s.listen(t)
	for _, author := range []string{"urn:mbid:a/b%20c", "urn%3Ambid%3Aa%2Fb%20c", "urn:mbid:a%2fb%20c"} {
		res := raw(t, addr, "GET /bots/v3/control/network/sms/externalId/e/author/"+author+" HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer "+
			s.as(t, gateway.ScopeBot, "acme/own")+"\r\n\r\n", nil)
		require.Equal(t, http.StatusOK, res.StatusCode, author)
	}
}
