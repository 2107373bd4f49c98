package api

import "time"

// Tool is an installed version of a program that VMs can be given.
type Tool struct {
	ID          string    `json:"id" example:"node@22.23.3" doc:"What DELETE takes"`
	Name        string    `json:"name" example:"node"`
	Version     string    `json:"version" example:"22.23.3" doc:"Exact"`
	Backend     string    `json:"backend" example:"core:node" doc:"What mise installed it by"`
	SizeBytes   int64     `json:"size_bytes"`
	Files       int64     `json:"files"`
	VMs         int       `json:"vms" doc:"That have it"`
	InstalledAt time.Time `json:"installed_at"`
}

// InstallTools asks for tools to be installed, so that VMs find them there.
type InstallTools struct {
	Tools []string `json:"tools" nullable:"false" minItems:"1" maxItems:"16" maxLength:"200" pattern:"^(?:[a-z]+:@?)?[A-Za-z0-9][A-Za-z0-9._/-]*(?:@[A-Za-z0-9][A-Za-z0-9._+-]*)?$" patternDescription:"NAME or NAME@VERSION" example:"node@22"`
}
