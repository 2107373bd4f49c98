package pager

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/aetherium/aetherium/services/core/internal/peercred"
	"golang.org/x/sys/unix"
)

// region is a part of a guest's memory, as Firecracker tells of it.
type region struct {
	Base     uint64 `json:"base_host_virt_addr"`
	Size     uint64 `json:"size"`
	Offset   uint64 `json:"offset"` // in the saved memory
	PageSize uint64 `json:"page_size"`
	PageKiB  uint64 `json:"page_size_kib"`
}

const (
	pageSize   = 4096
	maxRegions = 64
	maxHello   = 64 << 10
)

// receive takes over a monitor's memory: a userfaultfd and a list of regions, in
// one message on a connection that is kept.
func receive(listener *os.File, uid uint32, size uint64) (fault int, regions []region, err error) {
	l, err := net.FileListener(listener)
	if err != nil {
		return 0, nil, err
	}
	defer l.Close()
	_ = listener.Close()
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return 0, nil, fmt.Errorf("the listener is no unix socket")
	}
	ul.SetUnlinkOnClose(false) // it is not this root's
	deadline := time.Now().Add(handOver)
	if err := ul.SetDeadline(deadline); err != nil {
		return 0, nil, err
	}
	conn, err := ul.AcceptUnix()
	if err != nil {
		return 0, nil, err
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return 0, nil, err
	}
	if err := isFrom(conn, uid); err != nil {
		return 0, nil, err
	}
	hello, rights := make([]byte, maxHello), make([]byte, unix.CmsgSpace(4))
	n, rn, _, _, err := conn.ReadMsgUnix(hello, rights)
	if err != nil {
		return 0, nil, err
	}
	if fault, err = descriptor(rights[:rn]); err != nil {
		return 0, nil, err
	}
	if err := json.Unmarshal(hello[:n], &regions); err != nil {
		return 0, nil, fmt.Errorf("the monitor's regions cannot be read: %w", err)
	}
	return fault, regions, checkRegions(regions, size)
}

func isFrom(conn *net.UnixConn, uid uint32) error {
	peer, err := peercred.Of(conn)
	if err != nil {
		return err
	}
	if peer.Uid != uid {
		return fmt.Errorf("user %d hands over a memory in place of %d", peer.Uid, uid)
	}
	return nil
}

func descriptor(rights []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return 0, fmt.Errorf("the monitor hands over no descriptor: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return 0, fmt.Errorf("the monitor hands over %d descriptors: %w", len(fds), err)
	}
	unix.CloseOnExec(fds[0])
	return fds[0], unix.SetNonblock(fds[0], true)
}

// checkRegions makes sure that they are within the saved memory, whole pages,
// and each apart from the others.
func checkRegions(regions []region, size uint64) error {
	if len(regions) == 0 || len(regions) > maxRegions {
		return fmt.Errorf("the monitor's memory has %d regions", len(regions))
	}
	var sum uint64
	for i, r := range regions {
		switch {
		case r.Size == 0 || r.Size > size || r.Offset > size-r.Size || r.Base+r.Size < r.Base:
			return fmt.Errorf("region %d is not within the saved memory", i)
		case r.Base%pageSize != 0 || r.Size%pageSize != 0 || r.Offset%pageSize != 0:
			return fmt.Errorf("region %d does not consist of pages", i)
		// Older releases gave bytes as KiB.
		case r.PageSize != 0 && r.PageSize != pageSize || r.PageSize == 0 && r.PageKiB != 0 && r.PageKiB != 4 && r.PageKiB != pageSize:
			return fmt.Errorf("region %d has pages of another size", i)
		}
		for _, o := range regions[:i] {
			if r.Base < o.Base+o.Size && o.Base < r.Base+r.Size || r.Offset < o.Offset+o.Size && o.Offset < r.Offset+r.Size {
				return fmt.Errorf("region %d lies on another", i)
			}
		}
		sum += r.Size
	}
	if sum > size {
		return fmt.Errorf("the monitor's memory is larger than the saved one")
	}
	return nil
}
