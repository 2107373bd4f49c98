package standby

import "time"

// SetShowAfter changes how long a job that is run directly is not told of.
func (q *Queue) SetShowAfter(d time.Duration) { q.showAfter = d }

// SetPatience changes how long the shared queue has to take a job.
func (q *Queue) SetPatience(d time.Duration) { q.patience = d }
