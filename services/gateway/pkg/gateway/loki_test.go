package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/scanner"
)

// lokiServer takes and gives lines by what Loki documents of its API and of
// LogQL, and knows nothing else.
type lokiServer struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	lines   []lokiLine
	queries []string
	answer  int // instead
	asked   chan struct{}
}

type lokiLine struct {
	at     int64
	labels map[string]string
	text   string
}

func newLoki(t *testing.T) *lokiServer {
	t.Helper()
	s := &lokiServer{t: t, asked: make(chan struct{}, 1)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /loki/api/v1/push", s.push)
	mux.HandleFunc("GET /loki/api/v1/query_range", s.query)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Scope-OrgID") != "tenant" || r.Header.Get("Authorization") != "Bearer key" {
			http.Error(w, "no org id", http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *lokiServer) push(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Streams []struct {
			Stream map[string]string
			Values [][2]string
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range in.Streams {
		for _, v := range st.Values {
			at, _ := strconv.ParseInt(v[0], 10, 64)
			s.lines = append(s.lines, lokiLine{at, st.Stream, v[1]})
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *lokiServer) query(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	start, err1 := strconv.ParseInt(q.Get("start"), 10, 64)
	end, err2 := strconv.ParseInt(q.Get("end"), 10, 64)
	limit, err3 := strconv.Atoi(q.Get("limit"))
	takes, err4 := parseLogQL(q.Get("query"))
	direction := q.Get("direction")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queries = append(s.queries, q.Get("query"))
	select {
	case s.asked <- struct{}{}:
	default:
	}
	switch {
	case s.answer != 0:
		w.WriteHeader(s.answer)
		return
	case err1 != nil || err2 != nil || err3 != nil || err4 != nil || limit > 5000 || start > end || direction != "forward" && direction != "backward":
		s.t.Errorf("%s: %v %v %v %v", r.URL, err1, err2, err3, err4)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var found []lokiLine
	for _, l := range s.lines {
		if l.at >= start && l.at < end && takes(l) {
			found = append(found, l)
		}
	}
	slices.SortStableFunc(found, func(a, b lokiLine) int {
		if direction == "backward" {
			a, b = b, a
		}
		return int(a.at - b.at)
	})
	type stream struct {
		Stream map[string]string `json:"stream"`
		Values [][2]string       `json:"values"`
	}
	by := map[string]*stream{}
	result := []*stream{}
	for _, l := range found[:min(limit, len(found))] {
		key := fmt.Sprint(l.labels)
		if by[key] == nil {
			by[key] = &stream{Stream: l.labels}
			result = append(result, by[key])
		}
		by[key].Values = append(by[key].Values, [2]string{strconv.FormatInt(l.at, 10), l.text})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": "streams", "result": result, "stats": map[string]any{}}})
}

// parseLogQL reads a stream selector, line filters, json with the labels to take,
// and label filters joined by or; a query that is anything else is refused.
func parseLogQL(query string) (takes func(lokiLine) bool, err error) {
	var sc scanner.Scanner
	sc.Init(strings.NewReader(query))
	sc.Mode = scanner.ScanIdents | scanner.ScanStrings
	sc.Error = func(_ *scanner.Scanner, msg string) { err = fmt.Errorf("%s: %s", query, msg) }
	fail := func(what string) { err = fmt.Errorf("%s: %s at %d", query, what, sc.Pos().Offset) }
	tok := sc.Scan()
	next := func() { tok = sc.Scan() }
	take := func(what string) {
		for _, c := range what {
			if tok != c && err == nil {
				fail("no " + what)
			}
			next()
		}
	}
	text := func() string {
		s, bad := strconv.Unquote(sc.TokenText())
		if tok != scanner.String || bad != nil {
			fail("no string")
		}
		next()
		return s
	}
	name := func() string {
		s := sc.TokenText()
		if tok != scanner.Ident {
			fail("no name")
		}
		next()
		return s
	}
	var all []func(lokiLine, map[string]string) bool
	take("{")
	for err == nil {
		label := name()
		take("=")
		like := tok == '~'
		if like {
			next()
		}
		value := text()
		re, bad := regexp.Compile("^(?:" + value + ")$")
		if like && bad != nil {
			fail("no expression")
		}
		all = append(all, func(l lokiLine, _ map[string]string) bool {
			if like {
				return re.MatchString(l.labels[label])
			}
			return l.labels[label] == value
		})
		if tok != ',' {
			break
		}
		next()
	}
	take("}")
	for err == nil && tok != scanner.EOF {
		take("|")
		if tok == '=' {
			next()
			part := text()
			all = append(all, func(l lokiLine, _ map[string]string) bool { return strings.Contains(l.text, part) })
			continue
		}
		if word := name(); word == "json" {
			from := map[string]string{}
			for err == nil {
				label := name()
				take("=")
				from[label] = text()
				if tok != ',' {
					break
				}
				next()
			}
			all = append(all, func(l lokiLine, labels map[string]string) bool {
				var fields map[string]any
				_ = json.Unmarshal([]byte(l.text), &fields)
				for label, field := range from {
					if v, is := fields[field].(string); is {
						labels[label] = v
					}
				}
				return true
			})
		} else {
			var any []func(map[string]string) bool
			for label := word; err == nil; label = name() {
				take("=")
				value := text()
				any = append(any, func(labels map[string]string) bool { return labels[label] == value })
				if sc.TokenText() != "or" {
					break
				}
				next()
			}
			all = append(all, func(_ lokiLine, labels map[string]string) bool {
				return slices.ContainsFunc(any, func(is func(map[string]string) bool) bool { return is(labels) })
			})
		}
	}
	return func(l lokiLine) bool {
		labels := map[string]string{}
		return !slices.ContainsFunc(all, func(f func(lokiLine, map[string]string) bool) bool { return !f(l, labels) })
	}, err
}
