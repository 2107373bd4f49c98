package api

import (
	"encoding/json"
	"time"
)

// Task is durable asynchronous work with retries and a result.
type Task struct {
	ID          string          `json:"id"`
	Kind        string          `json:"kind" example:"vm.create"`
	Subject     string          `json:"subject,omitempty" doc:"ID of what it works on"`
	State       string          `json:"state" enum:"pending,running,succeeded,failed,canceled"`
	Result      json.RawMessage `json:"result,omitempty" doc:"Depends on the kind; that of a run is a TaskResult, and lists leave it out"`
	Error       *TaskError      `json:"error,omitempty"`
	Attempts    int             `json:"attempts"`
	MaxAttempts int             `json:"max_attempts"`
	CancelAsked bool            `json:"cancel_asked,omitempty"`
	CreatedAt   time.Time       `json:"created_at"`
	UpdatedAt   time.Time       `json:"updated_at"`
	RunAt       time.Time       `json:"run_at" doc:"Not before"`
	EndedAt     *time.Time      `json:"ended_at,omitempty"`
	// Of the kind run:
	Name        string `json:"name,omitempty"`
	GroupID     string `json:"group_id,omitempty"`
	Step        string `json:"step,omitempty" enum:"queued,creating,running,collecting,ending,done" doc:"How far its attempt is"`
	VMID        string `json:"vm_id,omitempty" doc:"Of its last attempt, as is execution_id"`
	ExecutionID string `json:"execution_id,omitempty"`
}

// TaskError is why a task failed.
type TaskError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Worker is the daemon on a node that owns the VMs there.
type Worker struct {
	ID       string     `json:"id"`
	Name     string     `json:"name"`
	Address  string     `json:"address,omitempty" example:"node-1:7400" doc:"Where it is reached by gateways; absent: it is in the gateway's own process"`
	Version  string     `json:"version"`
	Platform string     `json:"platform"`
	State    string     `json:"state" enum:"ready,cordoned,away" doc:"cordoned: it takes nothing new; away: nothing is heard of it, and its VMs may well run"`
	Cordoned bool       `json:"cordoned" doc:"It takes nothing new; also while it is away"`
	DrainAt  *time.Time `json:"drain_at,omitempty" doc:"It is drained: what is active then is ended by on_timeout"`
	Moving   bool       `json:"moving,omitempty" doc:"VMs that rest leave it: their next start may be on another worker"`
	Staying  int        `json:"staying,omitempty" doc:"While moving: VMs that cannot leave it, or could not lately; their reason says why"`
	Drivers  []Driver   `json:"drivers" nullable:"false"`
	Capacity Resources  `json:"capacity" doc:"What the node gives to VMs in all"`
	Reserved Resources  `json:"reserved" doc:"What its VMs may use, summed"`
	VMs      int        `json:"vms" doc:"VMs there that are not deleted, without those that rest in the storage"`
	Active   int        `json:"active" doc:"Those of them that run, are on their way there or are frozen in memory"`
	Tasks    int        `json:"tasks" doc:"Builds and installations of tools there that have not ended"`
	SeenAt   time.Time  `json:"seen_at" doc:"Its last sign of life"`
	JoinedAt time.Time  `json:"joined_at"`
}

// DrainWorker says how long the VMs of a worker that is drained may go on.
type DrainWorker struct {
	WithinMS *int64 `json:"within_ms,omitempty" minimum:"0" maximum:"86400000" doc:"Until those that are left are ended; absent: 10 minutes"`
	Move     bool   `json:"move,omitempty" doc:"Have VMs that rest leave it: their disks are put into the storage, and their next start may be on another worker"`
}

// Driver is what a driver on this installation can do.
type Driver struct {
	Name         string   `json:"name"`
	Version      string   `json:"version"`
	Isolation    string   `json:"isolation" enum:"container-root,container,gvisor,microvm"`
	Usable       bool     `json:"usable"`
	Reason       string   `json:"reason,omitempty" doc:"Why not usable"`
	Capabilities []string `json:"capabilities" nullable:"false" example:"pause:freeze,snapshot:disk"`
}

// Event is a fact, told in commit order.
type Event struct {
	Seq     int64           `json:"seq" doc:"The cursor"`
	Type    string          `json:"type" example:"vm.running"`
	Subject string          `json:"subject"`
	VMID    string          `json:"vm_id,omitempty"`
	Data    json.RawMessage `json:"data,omitempty" doc:"Depends on the type"`
	At      time.Time       `json:"at"`
}

// TypeEventGap is the type of the one event of a stream that is no fact: events after
// the cursor that the reader came with are not kept any more. Its seq is where it goes on.
const TypeEventGap = "gap"

// EventGap is its data.
type EventGap struct {
	From int64 `json:"from" doc:"The cursor that the reader had"`
	To   int64 `json:"to" doc:"Events after from, up to this cursor, may have been missed"`
}

// EventList is events after a cursor, oldest first.
type EventList struct {
	Items []Event `json:"items" nullable:"false"`
	// Last is the cursor to go on from: the newest item's, or the one given.
	Last int64 `json:"last" doc:"Cursor to go on from"`
}

// Status is what the server is and how it does, for administrators.
type Status struct {
	Version       string         `json:"version"`
	PID           int            `json:"pid"`
	URL           string         `json:"url"`
	PreviewDomain string         `json:"preview_domain"`
	DataDir       string         `json:"data_dir"`
	StartedAt     time.Time      `json:"started_at"`
	UptimeMS      int64          `json:"uptime_ms"`
	VMs           map[string]int `json:"vms" doc:"Count by state"`
	Workers       int            `json:"workers"`
}

// Endpoints are where a server is reached, for clients of other makes.
type Endpoints struct {
	URL           string `json:"url" doc:"Without TLS, from the server's own host; empty: nowhere"`
	TLSURL        string `json:"tls_url,omitempty" doc:"By TLS, from the server's own host; empty: nowhere"`
	PreviewDomain string `json:"preview_domain" doc:"Previews are at <port>-<vm>.<domain>, at the ports of both URLs"`
	Certificates  string `json:"certificates,omitempty" doc:"The authority (PEM) that clients have to trust for tls_url; empty: the certificate is the operator's own"`
}

// Health is the answer of /health and /ready.
type Health struct {
	Status string `json:"status" enum:"ok"`
}
