package trail

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// pace is how many of a kind of requests are recorded each: in a second and at
// once, of one client and of all. The others are counted.
type pace struct {
	each, all           rate.Limit
	eachBurst, allBurst int
}

// Refusals cost a client nothing, so that a flood of them must not fill the
// disk. Who shows the token of a VM's agent is bounded by no key's rate: changes
// in a VM are recorded each as fast as a key may make them where nothing else is
// said, and what is sent to a command is little news behind the first of it.
var (
	paceOfRefusals = pace{each: 1, eachBurst: 20, all: 50, allBurst: 1000}
	paceOfChanges  = pace{each: 500, eachBurst: 2000, all: 2000, allBurst: 8000}
	paceOfInputs   = pace{each: rate.Every(time.Minute), eachBurst: 1, all: 50, allBurst: 1000}
)

// maxFlooding bounds the clients that are remembered, of each kind.
const maxFlooding = 8192

// flood bounds the records of a kind of requests.
type flood struct {
	pace pace
	mu   sync.Mutex
	all  *rate.Limiter
	by   *lru.Cache[string, *flooding]
}

// flooding is one client.
type flooding struct {
	limiter    *rate.Limiter
	unrecorded int64
}

func newFlood(p pace) *flood {
	by, err := lru.New[string, *flooding](maxFlooding)
	if err != nil {
		panic(err) // the size is a constant
	}
	return &flood{pace: p, all: rate.NewLimiter(p.all, p.allBurst), by: by}
}

// record reports whether a request is to be recorded, and with how many of the
// same client before it.
func (f *flood) record(rec *domain.AuditRecord, who string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.by.Get(who)
	if !ok {
		c = &flooding{limiter: rate.NewLimiter(f.pace.each, f.pace.eachBurst)}
		f.by.Add(who, c)
	}
	if now := time.Now(); !c.limiter.AllowN(now, 1) || !f.all.AllowN(now, 1) {
		c.unrecorded++
		return false
	}
	rec.Unrecorded, c.unrecorded = c.unrecorded, 0
	return true
}

// refuser tells those apart who are refused.
func refuser(rec *domain.AuditRecord, known bool) string {
	if known {
		return string(rec.ProjectID) + "/" + string(rec.UserID) + "/" + string(rec.KeyID)
	}
	return rec.Client
}
