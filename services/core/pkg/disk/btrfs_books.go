package disk

import (
	"encoding/binary"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// What of linux/btrfs_tree.h says where btrfs keeps what on its device.
const (
	chunkTree  = 3
	chunkItems = 256 // BTRFS_FIRST_CHUNK_TREE_OBJECTID
	chunkItem  = 228 // BTRFS_CHUNK_ITEM_KEY

	// BTRFS_BLOCK_GROUP_DATA, _SYSTEM and _TYPE_MASK.
	blockGroupData   = 1 << 0
	blockGroupSystem = 1 << 1
	blockGroupTypes  = 1<<3 - 1

	rootTree      = 1
	orphanObjects = ^uint64(5) + 1 // BTRFS_ORPHAN_OBJECTID, -5
	orphanItem    = 48             // BTRFS_ORPHAN_ITEM_KEY

	balanceMetadata = 1 << 2 // BTRFS_BALANCE_METADATA
)

type (
	btrfsSearchKey struct {
		tree, minObject, maxObject, minOffset, maxOffset, minTransid, maxTransid uint64
		minType, maxType, items, _                                               uint32
		_                                                                        [4]uint64
	}
	btrfsSearch struct { // struct btrfs_ioctl_search_args_v2 and room for results
		key  btrfsSearchKey
		size uint64
		buf  [64 << 10]byte
	}
	btrfsBalance struct { // struct btrfs_ioctl_balance_args
		flags uint64
		rest  [1016]byte
	}
	btrfsSpaceInfo struct { // struct btrfs_ioctl_space_args with room for every kind
		slots, total uint64
		spaces       [16]struct{ kind, total, used uint64 }
	}
	fstrimRange struct{ start, length, minLength uint64 } // of linux/fs.h
)

// The kernel's sizes are without the results.
var (
	iocSpaceInfo    = ioctlNumber(3, 20, unsafe.Offsetof(btrfsSpaceInfo{}.spaces))
	iocTreeSearchV2 = ioctlNumber(3, 17, unsafe.Offsetof(btrfsSearch{}.buf))
	iocBalanceV2    = ioctlNumber(3, 32, unsafe.Sizeof(btrfsBalance{}))
	iocStartSync    = ioctlNumber(2, 24, 8)
	iocWaitSync     = ioctlNumber(1, 22, 8)
	iocSync         = ioctlNumber(0, 8, 0)
)

const iocFITRIM = 0xc0185879 // _IOWR('X', 121, struct fstrim_range)

// chunk is a stretch of btrfs's address space and where it is on the device.
type chunk struct {
	logical, length uint64
	kind            uint64
	stripes         []uint64 // offsets on the device; each has a whole copy
}

func (c chunk) dataOnly() bool { return c.kind&blockGroupTypes == blockGroupData }

// readChunks reads the chunk tree of a file system on one device.
func readChunks(fs *os.File) ([]chunk, error) {
	const all = ^uint64(0)
	s := &btrfsSearch{}
	var chunks []chunk
	for next := uint64(0); ; {
		s.key = btrfsSearchKey{
			tree: chunkTree, minObject: chunkItems, maxObject: chunkItems, minType: chunkItem, maxType: chunkItem,
			minOffset: next, maxOffset: all, maxTransid: all, items: 1 << 16,
		}
		s.size = uint64(len(s.buf))
		if err := ioctl(fs, iocTreeSearchV2, unsafe.Pointer(s)); err != nil {
			return nil, err
		}
		if s.key.items == 0 {
			return chunks, nil
		}
		found, err := parseChunks(s.buf[:], int(s.key.items))
		if err != nil {
			return nil, err
		}
		chunks = append(chunks, found...)
		next = chunks[len(chunks)-1].logical + 1
	}
}

// deletedSubvolumes reports whether there are subvolumes that were deleted and not
// freed yet: the tree of roots has an orphan item for each.
func deletedSubvolumes(fs *os.File) (bool, error) {
	const all = ^uint64(0)
	s := &btrfsSearch{key: btrfsSearchKey{
		tree: rootTree, minObject: orphanObjects, maxObject: orphanObjects, minType: orphanItem, maxType: orphanItem,
		maxOffset: all, maxTransid: all, items: 1,
	}}
	s.size = uint64(len(s.buf))
	err := ioctl(fs, iocTreeSearchV2, unsafe.Pointer(s))
	return s.key.items > 0, err
}

// parseChunks reads n items: struct btrfs_ioctl_search_header, struct
// btrfs_chunk and its stripes each.
func parseChunks(buf []byte, n int) ([]chunk, error) {
	const header, fixed, stripe = 32, 48, 32
	le := binary.LittleEndian
	chunks := make([]chunk, 0, n)
	for range n {
		if len(buf) < header {
			return nil, errors.Plain("short chunk tree")
		}
		// The header is in the machine's order, what is on disk in btrfs's.
		logical, size := binary.NativeEndian.Uint64(buf[16:]), int(binary.NativeEndian.Uint32(buf[28:]))
		if size < fixed || len(buf) < header+size {
			return nil, errors.Plain("short chunk item")
		}
		item := buf[header : header+size]
		c := chunk{logical: logical, length: le.Uint64(item), kind: le.Uint64(item[24:])}
		for at := fixed; at+stripe <= size; at += stripe {
			c.stripes = append(c.stripes, le.Uint64(item[at+8:]))
		}
		chunks = append(chunks, c)
		buf = buf[header+size:]
	}
	return chunks, nil
}

// btrfsBooks sees to it that what btrfs keeps its books in, all that is not
// volumes' data, has its room in the sparse file below.
type btrfsBooks struct {
	backed  map[span]bool
	renewed time.Time
	size    int64 // of all the spans
}

// span is a stretch of the file.
type span struct{ start, length int64 }

// renewBacking bounds how long room stays lost that somebody trimmed away
// (fstrim(8)). btrfs's own discards are for data only.
const renewBacking = time.Minute

// back backs chunks that are new. roomy: the disk has room for a new chunk.
func (b *btrfsBooks) back(fs, image *os.File, roomy bool) error {
	chunks, err := readChunks(fs)
	if err == nil && roomy && needsMetadata(chunks) {
		if err = renewMetadata(fs); err == nil {
			chunks, err = readChunks(fs)
		}
	}
	if err != nil {
		return err
	}
	if time.Since(b.renewed) > renewBacking {
		b.backed, b.renewed = map[span]bool{}, time.Now()
	}
	b.size = 0
	var failed error
	for _, s := range bookSpans(chunks) {
		b.size += s.length
		if b.backed[s] {
			continue
		}
		err := unix.Fallocate(int(image.Fd()), unix.FALLOC_FL_KEEP_SIZE, s.start, s.length)
		if err == unix.EOPNOTSUPP || err == unix.ENOSYS { //nolint:errorlint // a raw errno
			return nil // the ballast has to do
		}
		b.backed[s] = err == nil
		failed = errors.Join(failed, err)
	}
	return failed
}

// bookSpans are the stretches of the device that btrfs keeps its books in.
func bookSpans(chunks []chunk) []span {
	// The superblocks (fs/btrfs/disk-io.h, btrfs_sb_offset); a third is at 256 GiB,
	// and btrfs does without where one cannot be written.
	spans := []span{{0, 1 << 20}, {64 << 20, 4096}}
	for _, c := range chunks {
		if c.dataOnly() {
			continue
		}
		for _, at := range c.stripes {
			spans = append(spans, span{int64(at), int64(c.length)})
		}
	}
	return spans
}

// needsMetadata reports whether there is only what mkfs.btrfs made: too little
// to go on with when no chunk can be added.
func needsMetadata(chunks []chunk) bool {
	const made = 8 << 20
	var sum uint64
	for _, c := range chunks {
		if !c.dataOnly() && c.kind&blockGroupSystem == 0 {
			sum += c.length
		}
	}
	return sum <= made
}

// renewMetadata moves the little metadata that there is into a chunk of full size.
func renewMetadata(fs *os.File) error {
	return ioctl(fs, iocBalanceV2, unsafe.Pointer(&btrfsBalance{flags: balanceMetadata}))
}

// dataUsed is how many bytes of data there are, the ballast's included.
func dataUsed(fs *os.File) (int64, error) {
	var info btrfsSpaceInfo
	info.slots = uint64(len(info.spaces))
	if err := ioctl(fs, iocSpaceInfo, unsafe.Pointer(&info)); err != nil {
		return 0, err
	}
	var used uint64
	for _, s := range info.spaces[:min(info.total, info.slots)] {
		if s.kind&blockGroupTypes == blockGroupData {
			used += s.used
		}
	}
	return int64(used), nil
}

// dataPlaced is how many bytes of data have their place, and may have been
// written, in a transaction that is not finished: dataUsed and statfs(2) do not
// count them yet (struct btrfs_space_info, bytes_reserved).
func dataPlaced(fs *os.File) (int64, error) {
	uuid, err := btrfsUUID(fs)
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile("/sys/fs/btrfs/" + uuid + "/allocation/data/bytes_reserved")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// reclaim gives the room of freed data back to the disk now. Metadata is left
// alone: its room must stay in the file.
func reclaim(fs *os.File) error {
	var transaction uint64
	// What is freed can be discarded once that is on disk. Not syncfs(2): it would
	// wait for data.
	if err := ioctl(fs, iocStartSync, unsafe.Pointer(&transaction)); err != nil {
		return err
	}
	if err := ioctl(fs, iocWaitSync, unsafe.Pointer(&transaction)); err != nil {
		return err
	}
	chunks, err := readChunks(fs)
	if err != nil {
		return err
	}
	for _, c := range chunks {
		if !c.dataOnly() {
			continue
		}
		trim := fstrimRange{start: c.logical, length: c.length}
		if err := ioctl(fs, iocFITRIM, unsafe.Pointer(&trim)); err != nil && err != unix.EOPNOTSUPP { //nolint:errorlint // a raw errno
			return err
		}
	}
	return nil
}
