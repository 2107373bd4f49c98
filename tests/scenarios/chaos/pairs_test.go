package chaos

import (
	"math/rand/v2"
	"testing"
)

// TestSixDecksHaveAllPairs is what a run of 30 minutes has at least.
func TestSixDecksHaveAllPairs(t *testing.T) {
	const parts = 2 + gateways + workers
	for seed := range uint64(50) {
		var p pairs
		r, seen := rand.New(rand.NewPCG(seed, users)), map[pair]int{} //nolint:gosec // repeatable
		for range 6 {
			for range p.inDeck() {
				seen[p.deal(r, parts)]++
			}
		}
		for _, q := range allPairs(parts) {
			if seen[q] == 0 {
				t.Errorf("seed %d: %v was not dealt", seed, q)
			}
		}
	}
}
