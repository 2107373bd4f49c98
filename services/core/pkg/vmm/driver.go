package vmm

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
)

// AgentPort is the port that Dial yields the guest agent's HTTP server on.
// It is envd's port, so that E2B clients find it (design: E2B wire facts §3).
const AgentPort = bootline.AgentPort

// Driver makes machines on this node. Machines are keyed by IDs that the
// worker mints. Every call is idempotent: "already so" is success, and a call
// interrupted by a crash can be made again. Calls for one machine are never
// made concurrently, except Wait, Dial, List, Usage and Delete: Delete may
// interrupt whatever is under way, which then returns an error or has been
// done; a snapshot that was interrupted is removed by DeleteSnapshot.
type Driver interface {
	// Info says what the driver is and can do on this host. It does real
	// checks (not only the presence of files) and may take a while the first time.
	Info(ctx context.Context) domain.DriverInfo
	// Create prepares a machine: disk, network, configuration. Nothing runs yet.
	// The handle is the driver's own versioned record; List returns it again.
	// Returns NoSpace, Unsupported, InvalidArgument.
	Create(ctx context.Context, spec Spec) (Handle, error)
	// Start runs the machine. It returns as soon as Dial for AgentPort can
	// connect; the caller does the handshake. Starting a running machine is success.
	// Returns NotFound when it was never created.
	Start(ctx context.Context, id string) error
	// Stop asks the machine to end, and ends it when its programs did not within
	// grace, or it does not. The disk is kept, with what they wrote.
	// An absent or stopped machine is success.
	Stop(ctx context.Context, id string, grace time.Duration) error
	// Delete removes the machine and everything that was made for it, running or not.
	// Absent is success.
	Delete(ctx context.Context, id string) error
	// List tells what really is on this node, half-made machines included: orphans show here.
	List(ctx context.Context) ([]State, error)
	// Wait blocks until the machine no longer runs; the exit is told by the
	// kernel, never polled for. It works for machines that an earlier process
	// of this worker started. Returns NotFound when there is no such machine;
	// a machine that is already stopped yields its exit at once.
	Wait(ctx context.Context, id string) (Exit, error)
	// Dial connects to a TCP port inside the machine, or, for AgentPort, to
	// its agent. Returns Unavailable when nothing listens there, NotFound or
	// Conflict when the machine is absent or does not run.
	Dial(ctx context.Context, id string, port uint32) (net.Conn, error)
}

// Handle is a driver's versioned record of a machine, opaque to others.
type Handle []byte

// Spec is what a machine is made from. The caller has validated it and filled
// in every zero.
type Spec struct {
	MachineID string
	// RootFS is the directory of the template's root filesystem, never written to.
	RootFS string
	// BuildID names RootFS's content; the same build always has the same content.
	BuildID string
	// DiskFrom is the ID of a disk snapshot to start from (see Snapshotter); empty: a fresh disk.
	DiskFrom string
	// Memory makes the machine's first start go on from the memory of DiskFrom,
	// which is a snapshot of kind memory, taken of a machine with the same
	// Resources, RootFS and Mounts: its processes run as they did. Later starts
	// are cold ones, from the machine's own disk.
	Memory    bool
	Resources domain.Resources
	Network   domain.NetworkMode
	Hostname  string
	Mounts    []HostMount
	Platform  string
}

// HostMount is a mount with its source resolved on the host by the worker. A driver
// may show what is at Source when the machine is made, and all its life: a directory
// is put there whole then, and not changed.
type HostMount struct {
	Source   string // host path of a directory, or of a file
	Target   string // absolute path in the machine
	ReadOnly bool
}

// Status is where a machine stands for its driver.
type Status string

// The machine statuses.
const (
	StatusCreated Status = "created" // prepared, or stopped again
	StatusRunning Status = "running"
	StatusPaused  Status = "paused"
	StatusBroken  Status = "broken" // half made or half removed: only Delete helps
)

// State is one machine as the driver sees it.
type State struct {
	MachineID string
	Status    Status
	Handle    Handle
	PID       int // of the machine's first process on the host; 0 when none
	CreatedAt time.Time
}

// Exit is how a machine ended.
type Exit struct {
	// Known is false where the exit status could not be learned (a process of
	// an earlier worker); Code and Signal mean nothing then.
	Known  bool
	Code   int
	Signal int
	OOM    bool // the memory limit ended it
	At     time.Time
}

// The optional powers of a driver. A caller type-asserts; Info's capabilities
// name the same powers for people and the API.
type (
	// Pauser freezes a machine in a mode it supports ("pause:<mode>").
	// Pausing a paused machine and resuming a running one are success.
	// In mode memory the machine has no process afterwards and uses no memory:
	// connections to it break, its PID is 0, Dial and Usage return Conflict. It
	// has not ended: Wait goes on. It is still paused after the host was
	// rebooted. Stop forgets its memory. When Resume returns, Dial can connect;
	// one whose context ends first leaves it paused, or running, but not ended.
	// Returns Unsupported for other modes, Conflict for a machine that does not run.
	Pauser interface {
		Pause(ctx context.Context, id string, mode domain.PauseMode) error
		Resume(ctx context.Context, id string) error
	}
	// Snapshotter keeps a machine's state under a snapshot ID ("snapshot:<kind>").
	// The machine is frozen for the moment of the copy and goes on as it was.
	// One of kind memory holds the disk too, and can be used as a snapshot of it;
	// the capability "fork:memory" says that machines can go on from it
	// (Spec.Memory). Returns Unsupported for other kinds, Conflict for the memory
	// of a machine that does not run.
	Snapshotter interface {
		Snapshot(ctx context.Context, id, snapshotID string, kind domain.SnapshotKind) (SnapshotInfo, error)
		DeleteSnapshot(ctx context.Context, snapshotID string) error
		ListSnapshots(ctx context.Context) ([]string, error)
	}
	// Carrier takes disk snapshots to other nodes ("carry"). PackSnapshot writes
	// what one has on top of its template; of one of kind memory, its disk. It may
	// be deleted meanwhile. Returns NotFound, TooLarge, Unsupported.
	//
	// UnpackSnapshot makes a disk snapshot of what the driver of another node has
	// packed, which it does not trust, of a machine whose disk was limited to limit
	// bytes (0: no limit). It reads r up to io.EOF, and makes nothing where r does
	// not end so: r may tell with its last read that all of it was wrong. A snapshot
	// that exists is the result of an earlier call. Returns InvalidArgument for what
	// was not packed so, TooLarge, NoSpace, and r's errors.
	Carrier interface {
		PackSnapshot(ctx context.Context, snapshotID string, w io.Writer) error
		UnpackSnapshot(ctx context.Context, snapshotID string, limit int64, r io.Reader) error
	}
	// MemoryCarrier takes machines with what is in their memory to other nodes
	// ("carry:memory"). PackMemory writes a snapshot of kind memory: the memory, and
	// the disk of the same moment. It may be deleted meanwhile. UnpackSnapshot takes
	// what it wrote, too, for the disk in it. Returns NotFound for a snapshot without
	// memory.
	//
	// UnpackMemory makes the machine of a spec of what the driver of another node has
	// packed so: the same machine under another ID. It is paused in mode memory then,
	// and goes on by Resume, with the clock, the address and the hostname that it has
	// here; its TCP connections to others end. It reads r as UnpackSnapshot does,
	// before it makes anything that lasts: a machine that it failed to make is to be
	// deleted. One that exists is the result of an earlier call. Returns Conflict for
	// a memory that cannot go on here, of another version or over other files, and
	// what UnpackSnapshot does.
	MemoryCarrier interface {
		Carrier
		PackMemory(ctx context.Context, snapshotID string, w io.Writer) error
		UnpackMemory(ctx context.Context, spec Spec, r io.Reader) error
	}
	// Flattener shows the files of a disk snapshot, the template below it
	// included ("flatten"). Flatten calls read with them and returns its error;
	// what read is given is valid until it returns. rootFS is that of the
	// machines' Spec. The snapshot must not be deleted meanwhile. Returns NotFound.
	Flattener interface {
		Flatten(ctx context.Context, snapshotID, rootFS string, read func(Flat) error) error
	}
	// Meter reads what a machine uses ("meter").
	Meter interface {
		Usage(ctx context.Context, id string) (Usage, error)
	}
	// Tracer tells where the time of a machine's last start, or of its resumption,
	// went, in order: at most 32 phases, each with a fixed name of lower case
	// letters, digits and dashes. It answers from memory. None is no error.
	Tracer interface {
		Trace(ctx context.Context, id string) ([]Phase, error)
	}
	// BootKeeper keeps memories of machines that have booted, for others of the same
	// template and shape to go on from in place of a boot.
	BootKeeper interface {
		Booted(ctx context.Context) (BootedCounts, error)
	}
	// Resizer changes limits of a running machine ("resize").
	Resizer interface {
		Resize(ctx context.Context, id string, r domain.Resources) error
	}
	// Renamer sets the hostname of a running machine, for machines made before
	// it was known whose they are ("rename"). The name that a machine was made with, or
	// was given last, changes nothing: what the guest has made of it stays.
	Renamer interface {
		SetHostname(ctx context.Context, id, hostname string) error
	}
	// EgressController decides what a machine reaches ("egress"). What SetEgress
	// says before a machine is made or started is in force when it runs; later
	// it is in force when SetEgress returns. It must be said again before each
	// start. EgressLog reads the machine's log, oldest first; it outlives the
	// machine until ForgetEgressLog.
	EgressController interface {
		SetEgress(ctx context.Context, id string, e domain.Egress) error
		EgressLog(ctx context.Context, id string, q EgressLogQuery) ([]domain.EgressEntry, error)
		ForgetEgressLog(ctx context.Context, id string) error
	}
	// Closer lets go of what the driver holds in this process. Machines go on.
	Closer interface{ Close() error }
	// Teardowner removes what the instance made on the host apart from
	// machines (bridges, mounts, tables), once no machine runs.
	Teardowner interface {
		Teardown(ctx context.Context) error
	}
)

// Flat is a whole root filesystem as a directory on this host, read only.
type Flat struct {
	Dir string
	// Upper is the part of it that is not the template's, as overlayfs keeps it;
	// empty where a driver keeps it otherwise.
	Upper string
	// ID says what an owner's ID in Dir is in the machine; nil: the same.
	ID func(uint32) uint32
}

// BootedCounts tells of memories of booted machines: what happened in this
// process, and what is there.
type BootedCounts struct {
	Made   int64
	Used   int64 // machines that went on from one
	Missed int64 // machines that booted, for there was none that fits
	Failed int64 // memories that could not be made or gone on from
	Kept   int
	Bytes  int64 // on the disk, of all that are kept
}

// SnapshotInfo describes a snapshot that was taken.
type SnapshotInfo struct {
	Bytes  int64
	Frozen time.Duration // how long the machine stood still
	// MemoryVersion is the version of the driver that saved the memory; empty: its
	// present one.
	MemoryVersion string
}

// Usage is a machine's consumption, cumulative where it says so.
type Usage struct {
	CPUTime     time.Duration // cumulative since start
	MemoryBytes int64         // now
	MemoryPeak  int64
	MemoryLimit int64
	PIDs        int64 // now
	DiskBytes   int64 // written on top of the template, now
	DiskLimit   int64
	RxBytes     int64 // cumulative
	TxBytes     int64 // cumulative: egress
	OOMKills    int64 // cumulative
	At          time.Time
}
