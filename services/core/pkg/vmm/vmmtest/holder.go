package vmmtest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// keeper is a program that holds memory, an open file, a file on a tmpfs and
// blocks of a file on the disk, and answers requests: a line "tag what args…"
// by a line "tag answer".
const keeper = `
import hashlib, os, random, socket, sys, time, uuid
page, size = 4096, int(sys.argv[1]) << 20
mem = bytearray(size)
for i in range(0, size, page):
    mem[i:i+8] = i.to_bytes(8, "big")
blocks = open("blocks", "w+b")
for i in range(0, size // 4, page):
    blocks.write(i.to_bytes(8, "big") * (page // 8))
blocks.flush(); os.fsync(blocks.fileno())
unlinked = open("unlinked", "w+")
unlinked.write("still here"); unlinked.flush(); os.unlink("unlinked")
shm = sys.argv[2]
with open(shm, "w") as f: f.write("on a tmpfs")
state = {}

def write(text, first, step):
    b = text.encode()
    for i in range(int(first), size // page, int(step)):
        mem[i*page+16:i*page+16+len(b)] = b

def writeblocks(text, first, step):
    b = text.encode()
    for i in range(int(first), size // 4 // page, int(step)):
        blocks.seek(i*page+16); blocks.write(b)
    blocks.flush(); os.fsync(blocks.fileno())

def sum(): return hashlib.sha256(mem).hexdigest()

def sumblocks():
    blocks.seek(0)
    return hashlib.sha256(blocks.read()).hexdigest()

def files():
    unlinked.seek(0)
    return unlinked.read() + ", " + open(shm).read()

def draw():
    return " ".join([os.urandom(16).hex(), "%x" % random.SystemRandom().getrandbits(128), uuid.uuid4().hex,
        open("/proc/sys/kernel/random/uuid").read().strip()])

def clock(): return "%.6f" % time.time()

def steady():
    now = time.monotonic()
    then, state["steady"] = state.get("steady", now), now
    return "on" if now >= then else "back"

def leave(code): return "leaving"

def connect(host, port):
    state["conn"] = socket.create_connection((host, int(port)), 30)

def talk():
    c = state["conn"]
    c.settimeout(30)
    try:
        c.sendall(b"hello")
        return "alive" if c.recv(5) else "closed"
    except TimeoutError:
        return "silent"
    except OSError:
        return "closed"

print("holding", flush=True)
for line in sys.stdin:
    tag, what, *args = line.split()
    try: answer = globals()[what](*args)
    except Exception as e: answer = "failed: %r" % e
    print(tag, answer, flush=True)
    if what == "leave": sys.exit(int(args[0]))
`

const (
	pageBytes = 4096
	// keptMiB is how much memory a keeper holds.
	keptMiB = 16
)

// holder is a keeper that runs in a machine.
type holder struct {
	x     *box
	id    domain.ID
	f     *follower
	asked *int // by all that go on from one: no tag comes twice
}

// hold starts a keeper.
func (x *box) hold(t *testing.T) *holder {
	t.Helper()
	shm := "/dev/shm/vmmtest-" + string(domain.NewID())
	c := python(keeper, fmt.Sprint(keptMiB), shm)
	c.Stdin = true
	h := &holder{x: x, id: x.start(t, c), asked: new(int)}
	h.f = x.follow(t, h.id)
	h.f.until("holding\n")
	return h
}

// in is the same keeper in the same machine, taken up again, or under another
// ID in one that goes on from its memory.
func (h *holder) in(t *testing.T, x *box, id domain.ID) *holder {
	t.Helper()
	n := &holder{x: x, id: id, f: x.follow(t, id), asked: h.asked}
	n.f.midway = true
	n.f.text.WriteString("\n") // should it go on with an answer
	return n
}

// ask has something done and gives the answer.
func (h *holder) ask(t *testing.T, request string) string {
	t.Helper()
	*h.asked++
	tag := fmt.Sprintf("#%d", *h.asked)
	if err := h.x.session.WriteStdin(timeout(t), h.id, -1, []byte(tag+" "+request+"\n")); err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	for {
		if _, rest, ok := strings.Cut(h.f.text.String(), "\n"+tag+" "); ok {
			if answer, _, whole := strings.Cut(rest, "\n"); whole {
				if strings.HasPrefix(answer, "failed: ") {
					t.Fatalf("%s: %s", request, answer)
				}
				return answer
			}
		}
		h.f.more(request)
	}
}

// leave ends it.
func (h *holder) leave(t *testing.T, code int) {
	t.Helper()
	*h.asked++
	request := fmt.Sprintf("#%d leave %d\n", *h.asked, code)
	if err := h.x.session.WriteStdin(timeout(t), h.id, -1, []byte(request)); err != nil {
		t.Fatal(err)
	}
	if got := h.f.rest(); got.end.ExitCode != code {
		t.Errorf("it ended with %+v, want %d", got.end, code)
	}
}

// model is what a keeper must have in its memory and in its blocks.
type model struct{ mem, blocks []byte }

func newModel() *model {
	m := &model{mem: make([]byte, keptMiB<<20), blocks: make([]byte, keptMiB<<20/4)}
	for i := 0; i < len(m.mem); i += pageBytes {
		putInt(m.mem[i:], i)
	}
	for i := 0; i < len(m.blocks); i += pageBytes {
		for at := i; at < i+pageBytes; at += 8 {
			putInt(m.blocks[at:], i)
		}
	}
	return m
}

func putInt(b []byte, v int) {
	for at := range 8 {
		b[at] = byte(v >> (8 * (7 - at)))
	}
}

func (m *model) clone() *model {
	return &model{mem: append([]byte{}, m.mem...), blocks: append([]byte{}, m.blocks...)}
}

// write has a keeper write text into every step-th page and block from first on.
func (m *model) write(t *testing.T, h *holder, text string, first, step int) {
	t.Helper()
	for _, part := range []struct {
		what string
		in   []byte
	}{{"write", m.mem}, {"writeblocks", m.blocks}} {
		h.ask(t, fmt.Sprintf("%s %s %d %d", part.what, text, first, step))
		for i := first * pageBytes; i < len(part.in); i += step * pageBytes {
			copy(part.in[i+16:], text)
		}
	}
}

// check compares page by page what a keeper has with what it must have.
func (m *model) check(t *testing.T, who string, h *holder) {
	t.Helper()
	for _, part := range []struct {
		what string
		in   []byte
	}{{"sum", m.mem}, {"sumblocks", m.blocks}} {
		want := sumOf(part.in)
		if got := h.ask(t, part.what); got != want {
			t.Errorf("%s: %s is %s, want %s", who, part.what, got, want)
		}
	}
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
