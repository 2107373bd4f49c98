package api

import "time"

// Volume is a directory of files that outlives VMs, and that several of them
// can have at the same time.
type Volume struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	DiskBytes int64     `json:"disk_bytes" doc:"What it can hold"`
	WorkerID  string    `json:"worker_id" doc:"Whose disk it is on: VMs that have it are made there"`
	CreatedAt time.Time `json:"created_at"`
}

// CreateVolume asks for a volume.
type CreateVolume struct {
	Name      string `json:"name" minLength:"1" maxLength:"63" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$" patternDescription:"letters, digits, dots, dashes and underscores" doc:"Unique among the project's volumes; does not have the form of an ID"`
	DiskBytes int64  `json:"disk_bytes,omitempty" minimum:"0" maximum:"70368744177664" doc:"What it can hold; 0 or absent: what the disk of a VM has that asks for none"`
}

// MakeVolumeDir asks for a directory in a volume, and its missing parents.
type MakeVolumeDir struct {
	Path string `json:"path" minLength:"1" maxLength:"4096"`
	Mode string `json:"mode,omitempty" pattern:"^0?[0-7]{3,4}$" doc:"Octal; absent: 0755"`
}

// VolumeMount is a volume that a VM has, and where.
type VolumeMount struct {
	Volume   string `json:"volume" minLength:"1" maxLength:"63" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$" doc:"Its name, or in a request its name or ID"`
	Path     string `json:"path" minLength:"1" maxLength:"512" pattern:"^/" patternDescription:"an absolute path" example:"/mnt/data" doc:"Where it is in the VM: a directory below those of the system, made where it is missing"`
	ReadOnly bool   `json:"read_only,omitempty" doc:"The VM cannot write to it"`
}

// VMVolume is a volume that a VM has, as the VM shows it.
type VMVolume struct {
	VolumeID string `json:"volume_id"`
	VolumeMount
}
