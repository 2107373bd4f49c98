package api

// SetFree makes a directory believe that so many bytes are free where it lies.
func (d *UploadDir) SetFree(free func() (int64, error)) { d.free = free }
