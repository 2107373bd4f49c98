package api

import (
	"context"
	"net/http"
	"time"
)

// The states of a guest.
const (
	NotStarted = "Not started"
	Running    = "Running"
	Paused     = "Paused"
	resumed    = "Resumed"
)

// The ways to restore a memory.
const (
	BackendFile = "File"
	BackendUffd = "Uffd"
)

// The kinds of snapshots.
const (
	Full = "Full"
	Diff = "Diff"
)

// Instance is a monitor and the state of its guest.
type Instance struct {
	State   string `json:"state"`
	Version string `json:"vmm_version"`
}

// BootSource is the kernel with what it boots with.
type BootSource struct {
	Kernel string `json:"kernel_image_path"`
	Initrd string `json:"initrd_path,omitempty"`
	Args   string `json:"boot_args"`
}

// Machine is a guest's size.
type Machine struct {
	CPUs       int   `json:"vcpu_count"`
	MemoryMiB  int64 `json:"mem_size_mib"`
	TrackDirty bool  `json:"track_dirty_pages"`
}

// Bucket is a token bucket.
type Bucket struct {
	Size     int64 `json:"size"`
	RefillMS int64 `json:"refill_time"`
}

// Limiter bounds a device; nil: nothing does.
type Limiter struct {
	Bandwidth *Bucket `json:"bandwidth,omitempty"` // bytes
	Ops       *Bucket `json:"ops,omitempty"`
}

// Drive is a disk. Its ID says the order in which the guest sees them only by
// the order of the calls.
type Drive struct {
	ID       string   `json:"drive_id"`
	Path     string   `json:"path_on_host"`
	Root     bool     `json:"is_root_device"`
	ReadOnly bool     `json:"is_read_only"`
	Cache    string   `json:"cache_type,omitempty"`
	Limiter  *Limiter `json:"rate_limiter,omitempty"`
}

// Writeback is the cache type with which a guest's flushes reach the disk.
const Writeback = "Writeback"

// Network is a network device.
type Network struct {
	ID  string   `json:"iface_id"`
	Tap string   `json:"host_dev_name"`
	MAC string   `json:"guest_mac,omitempty"`
	Rx  *Limiter `json:"rx_rate_limiter,omitempty"`
	Tx  *Limiter `json:"tx_rate_limiter,omitempty"`
}

// Vsock is the channel to the guest.
type Vsock struct {
	CID  uint32 `json:"guest_cid"`
	Path string `json:"uds_path"`
}

// Balloon gives memory back that the guest does not use. Reporting and Hinting
// came with 1.14 and are refused by older versions when they are named.
type Balloon struct {
	AmountMiB    int64 `json:"amount_mib"`
	DeflateOnOOM bool  `json:"deflate_on_oom"`
	Reporting    bool  `json:"free_page_reporting,omitempty"`
	Hinting      bool  `json:"free_page_hinting,omitempty"`
}

// Create are the files of a snapshot to be taken.
type Create struct {
	Type   string `json:"snapshot_type"`
	State  string `json:"snapshot_path"`
	Memory string `json:"mem_file_path"`
}

// Backend is where a restored memory comes from.
type Backend struct {
	Type string `json:"backend_type"`
	Path string `json:"backend_path"`
}

// Override gives a network device another tap.
type Override struct {
	ID  string `json:"iface_id"`
	Tap string `json:"host_dev_name"`
}

// Load is a snapshot to go on from. Dirty pages are tracked by one of two names:
// 1.12 knows the first only, newer versions want the second.
type Load struct {
	State      string     `json:"snapshot_path"`
	Backend    Backend    `json:"mem_backend"`
	EnableDiff bool       `json:"enable_diff_snapshots,omitempty"`
	TrackDirty bool       `json:"track_dirty_pages,omitempty"`
	Resume     bool       `json:"resume_vm"`
	Networks   []Override `json:"network_overrides,omitempty"`
}

// Describe tells about the monitor and its guest.
func (c *Client) Describe(ctx context.Context) (Instance, error) {
	var i Instance
	return i, c.call(ctx, callTimeout, http.MethodGet, "/", nil, &i)
}

// SetBoot says what to boot.
func (c *Client) SetBoot(ctx context.Context, b BootSource) error {
	return c.put(ctx, "/boot-source", b)
}

// SetMachine says how large the guest is.
func (c *Client) SetMachine(ctx context.Context, m Machine) error {
	return c.put(ctx, "/machine-config", m)
}

// AddDrive adds a disk behind those there are.
func (c *Client) AddDrive(ctx context.Context, d Drive) error { return c.put(ctx, "/drives/"+d.ID, d) }

// AddNetwork adds a network device.
func (c *Client) AddNetwork(ctx context.Context, n Network) error {
	return c.put(ctx, "/network-interfaces/"+n.ID, n)
}

// SetVsock adds the channel.
func (c *Client) SetVsock(ctx context.Context, v Vsock) error { return c.put(ctx, "/vsock", v) }

// SetBalloon adds a balloon.
func (c *Client) SetBalloon(ctx context.Context, b Balloon) error { return c.put(ctx, "/balloon", b) }

// SetEntropy adds a source of entropy.
func (c *Client) SetEntropy(ctx context.Context) error {
	return c.put(ctx, "/entropy", struct{}{})
}

// LimitDrive bounds a disk of a guest that was made already.
func (c *Client) LimitDrive(ctx context.Context, id string, l *Limiter) error {
	return c.call(ctx, callTimeout, http.MethodPatch, "/drives/"+id, map[string]any{"drive_id": id, "rate_limiter": l}, nil)
}

// LimitNetwork bounds a network device of a guest that was made already.
func (c *Client) LimitNetwork(ctx context.Context, id string, l *Limiter) error {
	return c.call(ctx, callTimeout, http.MethodPatch, "/network-interfaces/"+id,
		map[string]any{"iface_id": id, "rx_rate_limiter": l, "tx_rate_limiter": l}, nil)
}

// Start starts the guest; how long that takes depends on its kernel, which is
// read, and on the host's disks, and ctx bounds it.
func (c *Client) Start(ctx context.Context) error { return c.action(ctx, 0, "InstanceStart") }

// PressReset presses Ctrl+Alt+Del.
func (c *Client) PressReset(ctx context.Context) error {
	return c.action(ctx, callTimeout, "SendCtrlAltDel")
}

// Pause stops the guest's processors; already so is success.
func (c *Client) Pause(ctx context.Context) error { return c.state(ctx, Paused) }

// Resume lets them go on; already so is success.
func (c *Client) Resume(ctx context.Context) error { return c.state(ctx, resumed) }

// CreateSnapshot writes a paused guest's memory and devices; how long that takes
// depends on its size, and ctx bounds it.
func (c *Client) CreateSnapshot(ctx context.Context, s Create) error {
	return c.call(ctx, 0, http.MethodPut, "/snapshot/create", s, nil)
}

// LoadSnapshot makes the guest from a snapshot.
func (c *Client) LoadSnapshot(ctx context.Context, s Load) error {
	return c.call(ctx, 0, http.MethodPut, "/snapshot/load", s, nil)
}

func (c *Client) put(ctx context.Context, path string, body any) error {
	return c.call(ctx, callTimeout, http.MethodPut, path, body, nil)
}

func (c *Client) action(ctx context.Context, limit time.Duration, name string) error {
	return c.call(ctx, limit, http.MethodPut, "/actions", map[string]string{"action_type": name}, nil)
}

func (c *Client) state(ctx context.Context, s string) error {
	return c.call(ctx, callTimeout, http.MethodPatch, "/vm", map[string]string{"state": s}, nil)
}
