package apifake

import (
	"net/http"
	"strconv"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// egressLog is what every VM did.
func egressLog() []api.EgressEntry {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return []api.EgressEntry{
		{Seq: 1, At: at, Verdict: "allow", Via: "dns", Protocol: "dns", Name: "pypi.org", Rule: "pypi.org"},
		{Seq: 2, At: at, Verdict: "allow", Via: "tls", Protocol: "tcp", Name: "pypi.org", Address: "203.0.113.7", Port: 443, Rule: "pypi.org", SentBytes: 2048, ReceivedBytes: 4096},
		{Seq: 3, At: at, Verdict: "deny", Via: "kernel", Protocol: "tcp", Address: "169.254.169.254", Port: 80, Reason: "private", Count: 3},
		{Seq: 4, At: at, Verdict: "allow", Via: "tls", Protocol: "tcp", Name: "example.com", Address: "203.0.113.8", Port: 8443, Rule: "*", Learned: true},
	}
}

func (s *Server) egressRoutes(handle register) {
	handle("GET /vms/{vm}/egress", s.withVM(func(w http.ResponseWriter, _ *http.Request, v *vm) error {
		out := api.VMEgress{InForce: true}
		if v.Egress != nil {
			out.EgressPolicy = *v.Egress
		}
		writeJSON(w, http.StatusOK, out)
		return nil
	}))
	handle("PUT /vms/{vm}/egress", s.withVM(func(w http.ResponseWriter, r *http.Request, v *vm) error {
		var p api.EgressPolicy
		if err := readJSON(r, &p); err != nil {
			return err
		}
		v.Egress = &p
		writeJSON(w, http.StatusOK, api.VMEgress{EgressPolicy: p, InForce: true})
		return nil
	}))
	handle("GET /vms/{vm}/egress/log", s.withVM(func(w http.ResponseWriter, r *http.Request, _ *vm) error {
		after, err := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
		if err != nil {
			return err
		}
		items := []api.EgressEntry{}
		for _, e := range egressLog() {
			if e.Seq > after && len(items) < 2 { // more pages than one
				items = append(items, e)
			}
		}
		writeJSON(w, http.StatusOK, api.List[api.EgressEntry]{Items: items, NextCursor: strconv.FormatInt(after+int64(len(items)), 10)})
		return nil
	}))
	handle("GET /vms/{vm}/egress/learned", s.withVM(func(w http.ResponseWriter, _ *http.Request, _ *vm) error {
		writeJSON(w, http.StatusOK, api.EgressPolicy{Allow: []string{"example.com", "pypi.org"}, Deny: []string{"*"}})
		return nil
	}))
}
