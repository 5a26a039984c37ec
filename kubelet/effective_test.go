package kubelet

import (
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestWhatDecidesHowTheKubeletIsReached(t *testing.T) {
	const own, cluster = head + "authentication: {x509: {clientCAFile: pki/ca.crt}}\n", head + "serverTLSBootstrap: true\n"
	for name, test := range map[string]struct {
		in   Layers
		want Effective
	}{
		"nothing":                        {Layers{}, Effective{}},
		"a relative path":                {Layers{Config: []byte(own)}, Effective{ClientCAFile: "/d/pki/ca.crt"}},
		"an absolute one in a drop-in":   {Layers{Config: []byte(own), DropIns: [][]byte{[]byte(head + "authentication: {x509: {clientCAFile: /x.crt}}\n")}}, Effective{ClientCAFile: "/x.crt"}},
		"a drop-in about something else": {Layers{Config: []byte(cluster), DropIns: [][]byte{nil, []byte(head)}}, Effective{ServerTLSBootstrap: true}},
		"switched off by a drop-in":      {Layers{Config: []byte(cluster), DropIns: [][]byte{[]byte(head + "serverTLSBootstrap: false\n")}}, Effective{}},
		"an argument wins":               {Layers{Config: []byte(own), Args: []string{"--client-ca-file=/y.crt", "--rotate_server_certificates"}}, Effective{"/y.crt", true}},
		"an argument switches off":       {Layers{Config: []byte(cluster), Args: []string{"--rotate-server-certificates=false"}}, Effective{}},
	} {
		if got, err := test.in.Effective("/d"); err != nil || got != test.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, test.want)
		}
	}
	if _, err := (Layers{Config: []byte("a: b\na: c\n")}).Effective("/d"); fault.ReasonOf(err) != fault.ConfigInvalid {
		t.Errorf("a damaged one: %v", err)
	}
	if _, err := (Layers{Config: []byte(head + "authentication: none\n")}).Effective("/d"); err == nil {
		t.Error("a field of another kind passed")
	}
}
