package api

import "time"

// Template is a named line of immutable builds.
type Template struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Tags      map[string]string `json:"tags" doc:"Tag to build ID"`
	Public    bool              `json:"public"`
	Builds    []Build           `json:"builds" nullable:"false" doc:"Newest first, at most 20"`
	CreatedAt time.Time         `json:"created_at"`
	UpdatedAt time.Time         `json:"updated_at"`
}

// Build is one immutable result of building a template.
type Build struct {
	ID          string         `json:"id"`
	TemplateID  string         `json:"template_id"`
	State       string         `json:"state" enum:"waiting,building,ready,error"`
	Platform    string         `json:"platform"`
	Source      TemplateSource `json:"source"`
	Resources   Resources      `json:"resources" doc:"Defaults of VMs made from it"`
	DefaultUser string         `json:"default_user,omitempty"`
	Start       string         `json:"start,omitempty" doc:"A line of shell that runs in the background in each VM made from it"`
	Ready       string         `json:"ready,omitempty" doc:"The line of shell that succeeds before such a VM is told to run"`
	Memory      *BuildMemory   `json:"memory,omitempty" doc:"What VMs of the same shape go on from"`
	SizeBytes   int64          `json:"size_bytes"`
	Reason      string         `json:"reason,omitempty" doc:"Why it failed"`
	CreatedAt   time.Time      `json:"created_at"`
	ReadyAt     *time.Time     `json:"ready_at,omitempty"`
}

// BuildMemory is a saved memory of a template's machine, in which its start
// command runs.
type BuildMemory struct {
	Driver        string `json:"driver"`
	DriverVersion string `json:"driver_version" doc:"It is of use to this version only"`
	Network       string `json:"network" enum:"none,nat"`
	Ready         string `json:"ready,omitempty" doc:"The line of shell that succeeded before it was saved"`
	SizeBytes     int64  `json:"size_bytes"`
}

// TemplateSource is what a root filesystem is made from. Exactly one of Image,
// Tar, Dir, Packages, Steps and Preset is set.
type TemplateSource struct {
	Image    string   `json:"image,omitempty" maxLength:"512" doc:"An OCI reference"`
	Tar      string   `json:"tar,omitempty" maxLength:"4096" doc:"ID of an upload; for administrators also an absolute path on the worker that builds"`
	Dir      string   `json:"dir,omitempty" maxLength:"4096" doc:"An absolute path on the worker that builds; administrators only"`
	Packages []string `json:"packages,omitempty" nullable:"false" maxItems:"1000" maxLength:"128" pattern:"^[a-z0-9][a-z0-9+.-]+$" doc:"Debian packages on top of a minimal system"`
	Suite    string   `json:"suite,omitempty" maxLength:"32" pattern:"^[a-z][a-z0-9-]*$" doc:"Debian release for packages; absent: bookworm"`
	Preset   string   `json:"preset,omitempty" maxLength:"32" pattern:"^[a-z][a-z0-9-]*$" doc:"One that comes with the product, with what is started in its VMs: code-interpreter"`
	Steps    string   `json:"steps,omitempty" maxLength:"65536" doc:"The text of a file of steps, a Dockerfile's subset: FROM, RUN, COPY, ENV, WORKDIR, USER. Lists show its FROM only"`
	Context  string   `json:"context,omitempty" maxLength:"4096" doc:"What steps copy from, a tar: ID of an upload; for administrators also an absolute path on the worker that builds"`
}

// BuildTemplate asks for a template build.
type BuildTemplate struct {
	Name      string            `json:"name" maxLength:"63" pattern:"^[a-z0-9][a-z0-9._/-]*$"`
	Tags      []string          `json:"tags,omitempty" nullable:"false" maxItems:"16" maxLength:"63" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$" doc:"Absent: latest"`
	Source    TemplateSource    `json:"source"`
	Resources *Resources        `json:"resources,omitempty"`
	User      string            `json:"user,omitempty" maxLength:"33" pattern:"^(?:[a-z_][a-z0-9_-]*[$]?|[0-9]{1,10})$" doc:"Default OS user"`
	Env       map[string]string `json:"env,omitempty" maxProperties:"256"`
	Start     string            `json:"start,omitempty" maxLength:"8192" doc:"A line of shell that runs in the background in each VM; in one that goes on from the template's memory it runs already"`
	Memory    bool              `json:"memory,omitempty" doc:"Boot a machine, run start until ready succeeds, and keep its memory: VMs of the same shape go on from there"`
	Ready     string            `json:"ready,omitempty" maxLength:"8192" doc:"A line of shell that is tried until it exits with 0: only then a VM is told to run, or the memory is kept; absent: at once"`
	Driver    string            `json:"driver,omitempty" maxLength:"32" pattern:"^[a-z0-9-]+$" doc:"With memory: the driver that it is of; absent: the server's default, or the first that can"`
	Network   string            `json:"network,omitempty" enum:"none,nat" doc:"With memory: the network of the VMs that it is for; absent: the server's default"`
	NoCache   bool              `json:"no_cache,omitempty" doc:"Carry out every step anew, also those whose results are kept from earlier builds"`
}

// TagTemplate says what a tag of a template is to point at: one of both.
type TagTemplate struct {
	Build string `json:"build,omitempty" maxLength:"20" pattern:"^[a-z0-9]{20}$" patternDescription:"an ID: 20 characters of a-z and 0-9" doc:"ID of a build of the template"`
	Tag   string `json:"tag,omitempty" maxLength:"63" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$" patternDescription:"letters, digits, dots, dashes and underscores" doc:"Another tag of the template: the build that it points at"`
}

// TemplateTag is a tag of a template, and the build that it points at.
type TemplateTag struct {
	Tag     string `json:"tag"`
	BuildID string `json:"build_id"`
}

// Upload is a file that was sent to be used later.
type Upload struct {
	ID        string    `json:"id"`
	SizeBytes int64     `json:"size_bytes"`
	SHA256    string    `json:"sha256" doc:"Hexadecimal"`
	ExpiresAt time.Time `json:"expires_at" doc:"Then it is removed, used or not"`
}
