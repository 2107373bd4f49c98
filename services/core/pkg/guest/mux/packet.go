package mux

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"sync"
)

// A packet is, little endian: kind (1 byte), life of the sender (8), life of
// the receiver as the sender knows it, or 0 (8), count (4), data, CRC-32C of
// all that (4). On the stream it is stuffed and followed by a zero.
const (
	packetHead = 21
	packetTail = 4
	maxData    = 16 << 10
	maxPacket  = packetHead + maxData + packetTail
	// maxStuffed is a packet's greatest length on the stream: one more byte for
	// each 254, and the first.
	maxStuffed = maxPacket + maxPacket/254 + 1
)

type kind byte

const (
	hello kind = 1 // names the lives
	data  kind = 2 // bytes of the link
)

type packet struct {
	kind  kind
	from  uint64
	to    uint64
	count uint32
	data  []byte
}

// castagnoli is made when a long packet first wants it: that is a good part of
// the start of a machine whose processor is emulated.
var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

// short bounds what is summed up byte by byte.
const short = 1 << 10

// bytewise is a table for that.
var bytewise = sync.OnceValue(func() *crc32.Table {
	var t crc32.Table
	for i := range t {
		sum := uint32(i)
		for range 8 {
			sum = sum>>1 ^ sum&1*crc32.Castagnoli
		}
		t[i] = sum
	}
	return &t
})

func checksum(b []byte) uint32 {
	if len(b) > short {
		return crc32.Checksum(b, castagnoli())
	}
	table, sum := bytewise(), ^uint32(0)
	for _, c := range b {
		sum = table[byte(sum)^c] ^ sum>>8
	}
	return ^sum
}

func (p packet) appendTo(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, byte(p.kind))
	dst = binary.LittleEndian.AppendUint64(dst, p.from)
	dst = binary.LittleEndian.AppendUint64(dst, p.to)
	dst = binary.LittleEndian.AppendUint32(dst, p.count)
	dst = append(dst, p.data...)
	return binary.LittleEndian.AppendUint32(dst, checksum(dst[start:]))
}

// stuffed is the packet as it goes onto the stream. Most are a few bytes long, and
// take no more room than that.
func (p packet) stuffed() []byte {
	n := packetHead + len(p.data) + packetTail
	plain := p.appendTo(make([]byte, 0, n))
	return stuff(make([]byte, 0, n+n/254+2), plain)
}

// parsePacket reads an unstuffed packet. Its data points into b.
func parsePacket(b []byte) (packet, bool) {
	if len(b) < packetHead+packetTail || len(b) > maxPacket {
		return packet{}, false
	}
	body, sum := b[:len(b)-packetTail], binary.LittleEndian.Uint32(b[len(b)-packetTail:])
	if checksum(body) != sum {
		return packet{}, false
	}
	p := packet{
		kind:  kind(body[0]),
		from:  binary.LittleEndian.Uint64(body[1:]),
		to:    binary.LittleEndian.Uint64(body[9:]),
		count: binary.LittleEndian.Uint32(body[17:]),
		data:  body[packetHead:],
	}
	if p.kind != hello && p.kind != data || p.from == 0 {
		return packet{}, false
	}
	return p, true
}

// stuff appends src without zeros, and a zero.
func stuff(dst, src []byte) []byte {
	for {
		n := bytes.IndexByte(src[:min(len(src), 254)], 0)
		switch {
		case n >= 0:
			dst = append(append(dst, byte(n+1)), src[:n]...)
			src = src[n+1:]
		case len(src) < 254:
			dst = append(append(dst, byte(len(src)+1)), src...)
			return append(dst, 0)
		default:
			dst = append(append(dst, 0xFF), src[:254]...)
			src = src[254:]
		}
	}
}

// unstuff appends what stuff was given, src being without its zero.
func unstuff(dst, src []byte) ([]byte, bool) {
	for len(src) > 0 {
		n := int(src[0])
		if n == 0 || n > len(src) {
			return nil, false
		}
		dst = append(dst, src[1:n]...)
		src = src[n:]
		if n < 0xFF && len(src) > 0 {
			dst = append(dst, 0)
		}
	}
	return dst, true
}

// splitter finds packets in a stream.
type splitter struct {
	part    []byte // of a packet whose end has not come
	skip    bool   // until the next zero: too long to be a packet
	scratch []byte
}

// feed calls each for every packet that ends in b. The packet's data is valid
// during the call. What is no packet is skipped.
func (s *splitter) feed(b []byte, each func(packet) error) error {
	for len(b) > 0 {
		end := bytes.IndexByte(b, 0)
		if end < 0 {
			if !s.skip && len(s.part)+len(b) <= maxStuffed {
				s.part = append(s.part, b...)
			} else {
				s.part, s.skip = s.part[:0], true
			}
			return nil
		}
		stuffed, skip := b[:end], s.skip || len(s.part)+end > maxStuffed
		if len(s.part) > 0 && !skip {
			s.part = append(s.part, stuffed...)
			stuffed = s.part
		}
		b, s.skip = b[end+1:], false
		if !skip && len(stuffed) > 0 {
			plain, ok := unstuff(s.scratch[:0], stuffed)
			if ok {
				s.scratch = plain
				if p, ok := parsePacket(plain); ok {
					if err := each(p); err != nil {
						return err
					}
				}
			}
		}
		s.part = s.part[:0]
	}
	return nil
}
