package microvm

// Clients counts the machines that this process talks to.
func (d *Driver) Clients() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.clients)
}

// Settle waits until the machines that are to stand by do.
func (d *Driver) Settle() { d.standby.busy.Wait() }
