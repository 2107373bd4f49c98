package memory

import "container/heap"

// jobs is a heap (container/heap).
type jobs struct {
	items []*item
	less  func(a, b *item) bool
}

func byPriority(a, b *item) bool {
	if a.priority != b.priority {
		return a.priority > b.priority
	}
	return a.seq < b.seq
}

func byTime(a, b *item) bool { return a.runAt.Before(b.runAt) }

func (j *jobs) Len() int           { return len(j.items) }
func (j *jobs) Less(a, b int) bool { return j.less(j.items[a], j.items[b]) }
func (j *jobs) Swap(a, b int) {
	j.items[a], j.items[b] = j.items[b], j.items[a]
	j.items[a].index, j.items[b].index = a, b
}

// Push implements heap.Interface.
func (j *jobs) Push(x any) {
	it := x.(*item)
	it.index = len(j.items)
	j.items = append(j.items, it)
}

// Pop implements heap.Interface.
func (j *jobs) Pop() any {
	last := len(j.items) - 1
	it := j.items[last]
	j.items[last] = nil
	j.items = j.items[:last]
	return it
}

// tenant has jobs that may run now, by priority, then age, or that run.
type tenant struct {
	name    string
	jobs    jobs
	running int
	served  int64 // when it was last, as a count
	index   int
}

func (q *Queue) tenant(name string) *tenant {
	t := q.tenants[name]
	if t == nil {
		t = &tenant{name: name, jobs: jobs{less: byPriority}}
		q.tenants[name] = t
	}
	return t
}

// settle puts a tenant of which something changed into its place, or forgets it.
func (q *Queue) settle(t *tenant) {
	listed := t.index < len(q.due) && q.due[t.index] == t
	switch {
	case listed && t.jobs.Len() > 0:
		heap.Fix(&q.due, t.index)
	case listed:
		heap.Remove(&q.due, t.index)
	}
	if t.jobs.Len() == 0 && t.running == 0 {
		delete(q.tenants, t.name)
	}
}

// ring is the heap of tenants: the one with the fewest running jobs first, then
// the one that was served longest ago.
type ring []*tenant

func (r ring) Len() int { return len(r) }
func (r ring) Less(a, b int) bool {
	if r[a].running != r[b].running {
		return r[a].running < r[b].running
	}
	return r[a].served < r[b].served
}

func (r ring) Swap(a, b int) {
	r[a], r[b] = r[b], r[a]
	r[a].index, r[b].index = a, b
}

// Push implements heap.Interface.
func (r *ring) Push(x any) {
	t := x.(*tenant)
	t.index = len(*r)
	*r = append(*r, t)
}

// Pop implements heap.Interface.
func (r *ring) Pop() any {
	last := len(*r) - 1
	t := (*r)[last]
	(*r)[last] = nil
	*r = (*r)[:last]
	return t
}
