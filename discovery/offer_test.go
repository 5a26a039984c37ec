package discovery

import (
	"slices"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestOfferedIsWhatTheBundleHolds(t *testing.T) {
	a, b := newCA(t, "a"), newCA(t, "b")
	got, err := Offered(kubeconfig(server, pemOf(a, b, a)))
	want := []string{SPKIPin(a.cert), SPKIPin(b.cert)}
	slices.Sort(want)
	if err != nil || !slices.Equal(got.Bundle.Pins(), want) || got.Server != server {
		t.Errorf("got %v, %v; want %v of %s", got, err, want, server)
	}
}

func TestOfferedKeepsTheRulesOfTheFirstReading(t *testing.T) {
	for name, in := range map[string]string{
		"a hostile field": kubeconfig(server, pemOf(newCA(t, "a"))) + "exec: {}\n",
		"no certificate":  kubeconfig(server, []byte("x")),
	} {
		t.Run(name, func(t *testing.T) {
			offer, err := Offered(in)
			wantReason(t, err, fault.ClusterInfoInvalid)
			if offer.Bundle.Len() != 0 || offer.Server != "" {
				t.Errorf("%v came with the error", offer)
			}
		})
	}
}
