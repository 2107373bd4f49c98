package api

import "time"

// FileInfo describes a file in a VM.
type FileInfo struct {
	Name          string            `json:"name"`
	Path          string            `json:"path"`
	Type          string            `json:"type" enum:"file,dir,symlink,other"`
	SizeBytes     int64             `json:"size_bytes"`
	Mode          string            `json:"mode" doc:"Octal permission bits, setuid, setgid and sticky included" example:"0644"`
	Owner         string            `json:"owner"`
	Group         string            `json:"group"`
	ModifiedAt    time.Time         `json:"modified_at"`
	SymlinkTarget string            `json:"symlink_target,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
}

// MakeDir asks for a directory and its missing parents.
type MakeDir struct {
	Path string `json:"path" minLength:"1" maxLength:"4096"`
	User string `json:"user,omitempty" maxLength:"33" pattern:"^(?:[a-z_][a-z0-9_-]*[$]?|[0-9]{1,10})$"`
	Mode string `json:"mode,omitempty" pattern:"^0?[0-7]{3,4}$" doc:"Octal; absent: 0755"`
}

// MoveFile asks for a rename within the VM.
type MoveFile struct {
	From string `json:"from" minLength:"1" maxLength:"4096"`
	To   string `json:"to" minLength:"1" maxLength:"4096"`
	User string `json:"user,omitempty" maxLength:"33" pattern:"^(?:[a-z_][a-z0-9_-]*[$]?|[0-9]{1,10})$"`
}

// FileEvent is a change in a watched directory.
type FileEvent struct {
	Type string `json:"type" enum:"create,write,remove,rename,chmod"`
	Path string `json:"path" doc:"Relative to the watched directory"`
}
