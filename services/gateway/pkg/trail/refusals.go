package trail

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Refusals cost a client nothing, so that a flood of them must not fill the
// disk: so many of a client are recorded each, so many of all, and the others
// are counted.
const (
	refusalsPerSecond = 1
	refusalsBurst     = 20
	allPerSecond      = 50
	allBurst          = 1000
	maxRefused        = 8192
)

type refused struct {
	limiter    *rate.Limiter
	unrecorded int64
}

type refusals struct {
	mu  sync.Mutex
	all *rate.Limiter
	by  *lru.Cache[string, *refused]
}

func newRefusals() *refusals {
	by, err := lru.New[string, *refused](maxRefused)
	if err != nil {
		panic(err) // the size is a constant
	}
	return &refusals{all: rate.NewLimiter(allPerSecond, allBurst), by: by}
}

// record reports whether a refusal is to be recorded, and with how many before it.
func (f *refusals) record(rec *domain.AuditRecord, known bool) bool {
	who := rec.Client
	if known {
		who = string(rec.ProjectID) + "/" + string(rec.UserID) + "/" + string(rec.KeyID)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok := f.by.Get(who)
	if !ok {
		r = &refused{limiter: rate.NewLimiter(refusalsPerSecond, refusalsBurst)}
		f.by.Add(who, r)
	}
	if now := time.Now(); !r.limiter.AllowN(now, 1) || !f.all.AllowN(now, 1) {
		r.unrecorded++
		return false
	}
	rec.Unrecorded, r.unrecorded = r.unrecorded, 0
	return true
}
