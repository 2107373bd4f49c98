package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// A pack is a file that small journals share, because making a file of its
// own costs a short command more than everything else here (measured on ext4:
// 0.5 ms, against 2 µs for a record in a pack). A pack holds records: a prefix
// that says whose it is, and a frame. The prefix is, little endian: CRC-32C of
// the rest of the prefix and the frame's header (4 bytes), time in Unix
// nanoseconds (8), VM (20), epoch (8), execution (20).
//
// A deleted record is overwritten in place with zeros for key and data, so
// that nothing of a deleted output stays; a pack without live records is
// removed.
const (
	packMagic  = "AEPACK1\n"
	packPrefix = 60
	maxPack    = 8 << 20
	// maxPacked and maxPackedRecords bound how much of one journal goes into
	// packs; what follows gets a file of its own.
	maxPacked        = 32 << 10
	maxPackedRecords = 64
)

type packs struct {
	dir string

	mu     sync.Mutex
	active *pack // records are added to it; nil until needed
	all    map[*pack]struct{}
	last   int64 // sequence number
	buf    []byte
}

// pack's fields but the first two are guarded by packs.mu.
type pack struct {
	path string
	file *os.File
	size int64
	live int // records not deleted
}

// extent is where a record lies and what of the output it holds.
type extent struct {
	pack   *pack
	pos    int64 // of the frame in the file
	offset int64 // in the output
	length int   // of the data
	kind   byte
}

// size is what the record takes in the file.
func (e extent) size() int64 { return int64(packPrefix + frameHeader + e.length) }

// end is the offset after the output that the record holds.
func (e extent) end() int64 {
	if !holdsOutput(e.kind) {
		return e.offset
	}
	return e.offset + int64(e.length)
}

func (p *packs) add(k Key, f frame, at time.Time) (extent, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.active != nil && p.active.size >= maxPack {
		full := p.active
		p.active = nil
		p.reclaim(full)
	}
	if p.active == nil {
		if err := p.create(); err != nil {
			return extent{}, err
		}
	}
	a := p.active
	p.buf = appendRecord(p.buf[:0], k, f, at)
	// A failed write leaves something behind that the next one replaces.
	if _, err := a.file.WriteAt(p.buf, a.size); err != nil {
		return extent{}, ioError(err, "the journal cannot be written")
	}
	e := extent{pack: a, pos: a.size + packPrefix, offset: f.offset, length: len(f.data), kind: f.kind}
	a.size += int64(len(p.buf))
	a.live++
	return e, nil
}

func (p *packs) create() error {
	p.last++
	path := filepath.Join(p.dir, fmt.Sprintf("pack-%d.p", p.last))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return ioError(err, "the journal cannot be made")
	}
	if _, err := f.WriteAt([]byte(packMagic), 0); err != nil {
		_ = f.Close()
		_ = os.Remove(path)
		return ioError(err, "the journal cannot be written")
	}
	p.active = &pack{path: path, file: f, size: int64(len(packMagic))}
	p.all[p.active] = struct{}{}
	return nil
}

// kill overwrites records and removes packs that hold nothing else.
func (p *packs) kill(extents []extent) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range extents {
		p.buf = appendDead(p.buf[:0], e.length)
		if _, err := e.pack.file.WriteAt(p.buf, e.pos-packPrefix); err != nil {
			return ioError(err, "the journal cannot be overwritten")
		}
		e.pack.live--
		p.reclaim(e.pack)
	}
	return nil
}

func (p *packs) reclaim(full *pack) {
	if full.live > 0 || full == p.active {
		return
	}
	delete(p.all, full)
	_ = full.file.Close()
	_ = os.Remove(full.path)
}

func (p *packs) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for f := range p.all {
		_ = f.file.Close()
	}
}

func appendRecord(dst []byte, k Key, f frame, at time.Time) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(at.UnixNano()))
	dst = append(dst, k.VM...)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(k.Epoch))
	dst = append(dst, k.Execution...)
	dst = appendFrame(dst, f)
	putPrefixSum(dst[start:])
	return dst
}

// appendDead makes a record that only says how long it is.
func appendDead(dst []byte, length int) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, packPrefix+frameHeader+length)...)
	binary.LittleEndian.PutUint32(dst[start+packPrefix+4:], uint32(length))
	putPrefixSum(dst[start:])
	return dst
}

func putPrefixSum(record []byte) {
	sum := crc32.Checksum(record[4:packPrefix+frameHeader], castagnoli)
	binary.LittleEndian.PutUint32(record, sum)
}

// record is one entry of a pack as it was read.
type record struct {
	key  Key
	at   time.Time
	dead bool
	f    frame
	size int
}

// parseRecord reads the record that src begins with; ok is false where the
// pack's whole part ends. A record with damaged data counts as dead.
func parseRecord(src []byte) (r record, ok bool) {
	if len(src) < packPrefix+frameHeader || binary.LittleEndian.Uint32(src) != crc32.Checksum(src[4:packPrefix+frameHeader], castagnoli) {
		return record{}, false
	}
	n := binary.LittleEndian.Uint32(src[packPrefix+4:])
	if n > maxFrameData || len(src) < packPrefix+frameHeader+int(n) {
		return record{}, false
	}
	r.size = packPrefix + frameHeader + int(n)
	r.at = time.Unix(0, int64(binary.LittleEndian.Uint64(src[4:])))
	r.key = Key{
		VM:        domain.ID(src[12:32]),
		Epoch:     int64(binary.LittleEndian.Uint64(src[32:])),
		Execution: domain.ID(src[40:60]),
	}
	var v verdict
	r.f, v = parseFrame(src[packPrefix:r.size])
	r.dead = v != whole || !r.key.valid()
	return r, true
}

// load reads a pack that an earlier process wrote and cuts off its torn end.
// It calls each for every live record.
func (p *packs) load(name string, seq int64, each func(record, extent)) error {
	path := filepath.Join(p.dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		return ioError(err, "the journal cannot be read")
	}
	p.last = max(p.last, seq)
	if len(data) < len(packMagic) || string(data[:len(packMagic)]) != packMagic {
		// Cut off before its first record.
		return os.Remove(path)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return ioError(err, "the journal cannot be opened")
	}
	pk := &pack{path: path, file: f, size: int64(len(packMagic))}
	p.all[pk] = struct{}{}
	for {
		r, ok := parseRecord(data[pk.size:])
		if !ok {
			break
		}
		if !r.dead {
			pk.live++
			each(r, extent{pack: pk, pos: pk.size + packPrefix, offset: r.f.offset, length: len(r.f.data), kind: r.f.kind})
		}
		pk.size += int64(r.size)
	}
	if pk.size < int64(len(data)) {
		if err := f.Truncate(pk.size); err != nil {
			return ioError(err, "the journal's torn end cannot be cut off")
		}
	}
	if seq == p.last && pk.size < maxPack {
		p.active = pk
	}
	p.reclaim(pk)
	return nil
}

// parsePackName undoes the name that create gives.
func parsePackName(name string) (seq int64, ok bool) {
	if _, err := fmt.Sscanf(name, "pack-%d.p", &seq); err != nil || seq < 1 {
		return 0, false
	}
	return seq, name == fmt.Sprintf("pack-%d.p", seq)
}

// read gives the data of a packed record.
func (e extent) read() ([]byte, error) {
	mem := make([]byte, frameHeader+e.length)
	if _, err := e.pack.file.ReadAt(mem, e.pos); err != nil {
		return nil, ioError(err, "the journal cannot be read")
	}
	f, v := parseFrame(mem)
	if v != whole || f.offset != e.offset || f.kind != e.kind {
		return nil, errDamaged
	}
	return f.data, nil
}

var errDamaged = errors.Plain("journal: damaged data")
