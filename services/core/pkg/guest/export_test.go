package guest

// Spares tells how many lanes wait for commands.
func (c *Client) Spares() int {
	c.spare.mu.Lock()
	defer c.spare.mu.Unlock()
	return len(c.spare.conns)
}
