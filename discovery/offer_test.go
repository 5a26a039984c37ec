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

func TestBundlesAreComparedByCertificateNotByOrderOrText(t *testing.T) {
	a, b, c := newCA(t, "a"), newCA(t, "b"), newCA(t, "c")
	parse := func(text []byte) Bundle {
		t.Helper()
		bundle, err := ParseBundle(text)
		if err != nil {
			t.Fatal(err)
		}
		return bundle
	}
	one, other := parse(pemOf(a, b)), parse(slices.Concat([]byte("# in another order\n"), pemOf(b, a, b)))
	if one.Minus(other).Len()+other.Minus(one).Len() != 0 || string(one.PEM()) != string(other.PEM()) || one.Len() != 2 {
		t.Errorf("%v and %v", one.Pins(), other.Pins())
	}
	next := parse(pemOf(b, c))
	if added, gone := next.Minus(one).Pins(), one.Minus(next).Pins(); !slices.Equal(added, []string{SPKIPin(c.cert)}) || !slices.Equal(gone, []string{SPKIPin(a.cert)}) {
		t.Errorf("added %v, gone %v", added, gone)
	}
	if left := one.Without([]string{SPKIPin(a.cert), SPKIPin(c.cert)}).Pins(); !slices.Equal(left, []string{SPKIPin(b.cert)}) {
		t.Errorf("left %v", left)
	}
	if none := one.Without(one.Pins()); none.Len() != 0 || len(none.PEM()) != 0 || none.Pins() != nil {
		t.Errorf("%+v", none)
	}
}
