package domain_test

import (
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

func TestScopes(t *testing.T) {
	t.Parallel()
	all := []domain.Scope{domain.ScopeRead, domain.ScopeRun, domain.ScopeManage, domain.ScopeAdmin}
	for i, have := range all {
		for j, need := range all {
			if got := have.Includes(need); got != (i >= j) {
				t.Errorf("%s includes %s: %t", have, need, got)
			}
			if got := (domain.Scopes{have}).Within(need); len(got) != 1 || got[0] != all[min(i, j)] {
				t.Errorf("%s within %s: %s", have, need, got)
			}
		}
	}
	for _, strange := range []domain.Scope{"", "root", "ADMIN", "read "} {
		if strange.Validate("scopes") == nil || strange.Includes(domain.ScopeRead) || domain.ScopeAdmin.Includes(strange) {
			t.Errorf("%q counts", strange)
		}
		if got := (domain.Scopes{domain.ScopeAdmin}).Within(strange); got != nil {
			t.Errorf("within %q: %s", strange, got)
		}
		if got := (domain.Scopes{strange}).Within(domain.ScopeAdmin); got != nil {
			t.Errorf("%q within admin: %s", strange, got)
		}
	}
	for _, tc := range []struct {
		have   domain.Scopes
		allows domain.Scope // widest
	}{
		{nil, ""},
		{domain.Scopes{"vms:read"}, ""},
		{domain.Scopes{domain.ScopeManage, domain.ScopeRead}, domain.ScopeManage},
	} {
		if got := tc.have.Widest(); got != tc.allows || tc.have.Allows(domain.ScopeRead) != (tc.allows != "") {
			t.Errorf("%s: %q", tc.have, got)
		}
	}
	if (domain.Scopes{domain.ScopeRead, "x"}).Validate("scopes") == nil || make(domain.Scopes, 5).Validate("scopes") == nil {
		t.Error("strange scopes are fine")
	}
}
