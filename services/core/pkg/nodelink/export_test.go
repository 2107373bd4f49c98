package nodelink

import "time"

// AskAfter sets how long a call of HTTP/1.1 waits before its node is asked for a sign
// of life.
func (c *Client) AskAfter(d time.Duration) { c.patience = d }
