package domain

import (
	"slices"
	"strings"
)

// Scope is how much a caller may do. Each includes those before it.
type Scope string

// The scopes, from the narrowest to the widest.
const (
	ScopeRead   Scope = "read"   // see what is there
	ScopeRun    Scope = "run"    // VMs and what happens in them
	ScopeManage Scope = "manage" // what the project's VMs are made from, its keys, secrets and members
	ScopeAdmin  Scope = "admin"  // the installation: every project, users, nodes
)

var scopeOrder = []Scope{ScopeRead, ScopeRun, ScopeManage, ScopeAdmin}

// rank is 0 for what is no scope.
func (s Scope) rank() int { return slices.Index(scopeOrder, s) + 1 }

// Includes reports whether who has s may do what needs another scope. What is
// no scope includes nothing, and nothing includes it.
func (s Scope) Includes(need Scope) bool {
	return s.rank() > 0 && need.rank() > 0 && s.rank() >= need.rank()
}

// Validate checks a scope. Returns InvalidArgument.
func (s Scope) Validate(field string) error {
	if s.rank() == 0 {
		return invalid(field, "%q is not a scope", clip(string(s), 64)).WithHint("read, run, manage or admin")
	}
	return nil
}

// Scopes is what a caller may do. None is nothing.
type Scopes []Scope

// Allows reports whether one of the scopes includes what is needed.
func (s Scopes) Allows(need Scope) bool {
	return slices.ContainsFunc(s, func(have Scope) bool { return have.Includes(need) })
}

// Widest is the scope that includes all others there; empty when there is none.
func (s Scopes) Widest() Scope {
	var widest Scope
	for _, have := range s {
		if have.rank() > widest.rank() {
			widest = have
		}
	}
	return widest
}

// Within narrows scopes to a bound.
func (s Scopes) Within(bound Scope) Scopes {
	widest := s.Widest()
	if widest.rank() > bound.rank() {
		widest = bound
	}
	if widest.rank() == 0 {
		return nil
	}
	return Scopes{widest}
}

// Validate checks scopes from outside. Returns InvalidArgument.
func (s Scopes) Validate(field string) error {
	if len(s) > len(scopeOrder) {
		return invalid(field, "%d scopes, there are only %d", len(s), len(scopeOrder))
	}
	for _, scope := range s {
		if err := scope.Validate(field); err != nil {
			return err
		}
	}
	return nil
}

func (s Scopes) String() string {
	words := make([]string, len(s))
	for i, scope := range s {
		words[i] = string(scope)
	}
	return strings.Join(words, ",")
}
