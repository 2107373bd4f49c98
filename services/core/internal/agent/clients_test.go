package agent

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestAnswersBearNoDate(t *testing.T) {
	var c clients
	s := httptest.NewServer(c.serving(http.NotFoundHandler()))
	defer s.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if date, ok := resp.Header["Date"]; ok {
		t.Errorf("Date: %q", date)
	}
}
