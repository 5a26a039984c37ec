package systemd

import (
	"flag"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var hostileSeed = flag.Uint64("hostile.seed", 0, "of the random hostile arguments; 0: another one each time")

// fragments are what a parser of units, a shell or a terminal might stumble over.
var fragments = []string{
	"\"", "'", "\\", "\\\\", "\\n", "\\x41", "\\\"", "\\ ", " ", "  ", "%", "%%", "%n", "%H", "%i", "$", "$$", "$HOME", "${HOME}", "${", "}", "$KUBELET_EXTRA_ARGS",
	";", " ; ", "#", "-", "--", "@", "!", "+", ":", "|", "=", "[Service]", "ExecStart=", ",", "/", "..", "*", "?", "[a]", "~", "`id`", "$(id)", "&", ">", "<0>",
	"ü", "節", "🚀", "\u00a0", "\u00ad", "\ufeff", "a", "b", "Z", "0", "node-labels", strings.Repeat("x", 100),
	// What no unit can carry.
	"\n", "\r", "\x00", "\t", "\x1b", "\x7f", "\u0085", "\u2028", "\u202e", "\u2066", "\xc3", "\xff",
}

// randomHostile returns n strings of fragments; carried says which of them a unit
// must carry as they are: the others hold something that is refused.
func randomHostile(t *testing.T, n int) (carried, refused []string) {
	t.Helper()
	seed := *hostileSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-hostile.seed=%d", seed)
	r := rand.New(rand.NewPCG(seed, seed))
	const bad = 12 // the last of fragments
	for len(carried) < n {
		var text strings.Builder
		spoiled := r.IntN(8) == 0
		for range 1 + r.IntN(8) {
			text.WriteString(fragments[r.IntN(len(fragments)-bad)])
		}
		if spoiled {
			text.WriteString(fragments[len(fragments)-1-r.IntN(bad)])
			text.WriteString(fragments[r.IntN(len(fragments)-bad)])
			refused = append(refused, text.String())
			continue
		}
		carried = append(carried, text.String())
	}
	return carried, refused
}

// T17: random strings in, the same strings out; what cannot be carried is refused.
func TestRandomHostileWordsArriveUnchangedOrAreRefused(t *testing.T) {
	carried, refused := randomHostile(t, 500)
	for _, text := range carried {
		roundTrip(t, text, []string{"HOME=/root", "KUBELET_EXTRA_ARGS=--evil x"})
	}
	for _, text := range refused {
		if got, err := Escape(text); err == nil {
			t.Errorf("%q was taken as %s", text, got)
		}
	}
	if len(refused) == 0 {
		t.Error("nothing was spoiled: this shows half of it")
	}
}
