package history

import (
	"strings"
	"testing"
)

func looks(all ...[]Running) (l []Look) {
	for _, r := range all {
		l = append(l, Look{Running: r})
	}
	return l
}

func TestCheckOwners(t *testing.T) {
	at := func(machine, vm, worker string) Running { return Running{machine, vm, worker} }
	for name, c := range map[string]struct {
		looks []Look
		want  string
	}{
		"a machine on two workers": {
			looks([]Running{at("m", "", "w1"), at("m", "", "w2")}, []Running{at("m", "", "w1"), at("m", "", "w2")}),
			"machine m ran on [w1 w2] at once",
		},
		"two machines of a VM": {
			looks(nil, []Running{at("m", "v", "w1"), at("n", "v", "w2")}, []Running{at("n", "v", "w2"), at("m", "v", "w1")}),
			"VM (v) ran on [w1 w2] at once",
		},
		"one that moves": {
			looks([]Running{at("m", "v", "w1")}, []Running{at("m", "v", "w1"), at("n", "v", "w2")}, []Running{at("n", "v", "w2")}), "",
		},
		"one that moves back and forth": {
			looks([]Running{at("m", "v", "w1"), at("n", "v", "w2")}, []Running{at("n", "v", "w2")}, []Running{at("n", "v", "w2"), at("o", "v", "w1")}), "",
		},
		"two machines of a VM on one worker": { // one is being removed
			looks([]Running{at("m", "v", "w1"), at("n", "v", "w1")}, []Running{at("m", "v", "w1"), at("n", "v", "w1")}), "",
		},
		"machines of no VM": {
			looks([]Running{at("m", "", "w1"), at("n", "", "w2")}, []Running{at("m", "", "w1"), at("n", "", "w2")}), "",
		},
	} {
		got := strings.Join(CheckOwners(c.looks), "\n")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestCheckPlaces(t *testing.T) {
	rows := map[string]Place{"m": {"w1", "v"}, "n": {"w2", ""}, "o": {"w1", "x"}}
	for want, running := range map[string][]Running{
		"":                                     {{"m", "v", "w1"}, {"n", "", "w2"}}, // o rests
		"runs on w2, and its row says w1":      {{"m", "v", "w2"}},
		"machine p runs on w1, and has no row": {{"p", "", "w1"}},
	} {
		got := strings.Join(CheckPlaces(running, rows), "\n")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("want %q, got %q", want, got)
		}
	}
}
