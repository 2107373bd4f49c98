package upload

// SetFree makes a directory believe that so many bytes are free where it lies.
func (d *Dir) SetFree(free func() (int64, error)) { d.free = free }
