package network_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// BenchmarkAcquire measures what a machine waits for its network: from a pool
// that is full, and made on the spot.
func BenchmarkAcquire(b *testing.B) {
	if !isolated(b) {
		return
	}
	newLab(b)
	ctx := context.Background()
	for _, mode := range []domain.NetworkMode{domain.NetworkNone, domain.NetworkNAT} {
		for _, pool := range []int{-1, 200} {
			name := map[bool]string{true: "cold", false: "pooled"}[pool < 0]
			b.Run(fmt.Sprintf("%s/%s", mode, name), func(b *testing.B) {
				cfg := config(b, fmt.Sprintf("bench-%s-%s", mode, name))
				cfg.PoolNone, cfg.PoolNAT = -1, -1
				if mode == domain.NetworkNone {
					cfg.PoolNone = pool
				} else {
					cfg.PoolNAT = pool
				}
				m := open(b, cfg)
				defer func() {
					if err := m.Teardown(ctx); err != nil {
						b.Error(err)
					}
				}()
				if err := m.Warm(ctx); err != nil {
					b.Fatal(err)
				}
				b.ResetTimer()
				for i := range b.N {
					if _, err := m.Acquire(ctx, fmt.Sprintf("m%d", i), mode, ""); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
			})
		}
	}
}
