package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/gateway"
)

// company fills the stage with registrations of a company.
func (s *stage) company(n int) {
	for i := range n {
		id := delivery.RegID{Entity: delivery.Entity{CompanyKey: "acme", NetworkKey: "chat", ExternalID: fmt.Sprintf("page-%04d", i)}, AppID: "bot"}
		s.carrier.regs[id] = delivery.Registration{RegID: id, Name: "Bot of many pages", CallbackURL: "https://bot.example.org/hook", Mode: delivery.Live, Credentials: delivery.Credentials{Type: delivery.HMAC}}
	}
}

// listing is what a listing of registrations answers.
type listing struct {
	Data []struct{ ExternalID string }
	Next string
}

func (s *stage) list(t testing.TB, query string) (int, listing) {
	t.Helper()
	rec := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodGet, "/bots/v3/registrations"+query, nil)
	req.Header.Set("Authorization", "Bearer "+s.as(t, gateway.ScopeAdmin, "acme"))
	s.gateway.Handler().ServeHTTP(rec, req)
	checkDescribed(t, req, "", rec)
	var l listing
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &l), rec.Body.String())
	return rec.Code, l
}

func TestListingOfABigCompanyIsWholeAndComesInPagesIfAsked(t *testing.T) {
	s := newStage(t)
	s.company(1234)
	status, all := s.list(t, "")
	require.Equal(t, http.StatusOK, status)
	require.Len(t, all.Data, 1234, "without a limit it is all of them")
	require.Empty(t, all.Next)

	var paged []struct{ ExternalID string }
	for query := "?limit=500"; query != ""; {
		status, page := s.list(t, query)
		require.Equal(t, http.StatusOK, status)
		require.LessOrEqual(t, len(page.Data), 500)
		paged = append(paged, page.Data...)
		query = ""
		if page.Next != "" {
			query = "?limit=500&after=" + url.QueryEscape(page.Next)
		}
	}
	require.Equal(t, all.Data, paged)
	_, last := s.list(t, "?limit=1234")
	require.Empty(t, last.Next, "a page that holds all says so")
	for _, wrong := range []string{"0", "-1", "10001", "many"} {
		status, _ := s.list(t, "?limit="+wrong)
		require.Equal(t, http.StatusBadRequest, status, wrong)
	}
}

func TestListingThatBreaksOffIsNotTakenForTheWhole(t *testing.T) {
	s := newStage(t)
	s.company(1234)
	s.carrier.breaksAt = 3
	status, _ := s.list(t, "")
	require.Equal(t, http.StatusServiceUnavailable, status, "nothing was sent yet")

	s.carrier.breaksAt = 1000
	server := httptest.NewServer(s.gateway.Handler())
	defer server.Close()
	req, err := http.NewRequest(http.MethodGet, server.URL+"/bots/v3/registrations", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+s.as(t, gateway.ScopeAdmin, "acme"))
	answer, err := server.Client().Do(req)
	require.NoError(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.NotEmpty(t, text)
	require.Contains(t, s.log.String(), "long answer broken off")
}
