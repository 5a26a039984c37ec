package kubelet

import (
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestWhatDecidesHowTheKubeletIsReached(t *testing.T) {
	const own, cluster = head + "authentication: {x509: {clientCAFile: pki/ca.crt}}\n", head + "serverTLSBootstrap: true\n"
	for name, test := range map[string]struct {
		in   HealthInput
		want Effective
	}{
		"nothing":                        {HealthInput{}, Effective{}},
		"a relative path":                {HealthInput{Config: []byte(own)}, Effective{ClientCAFile: "/d/pki/ca.crt"}},
		"an absolute one in a drop-in":   {HealthInput{Config: []byte(own), DropIns: [][]byte{[]byte(head + "authentication: {x509: {clientCAFile: /x.crt}}\n")}}, Effective{ClientCAFile: "/x.crt"}},
		"a drop-in about something else": {HealthInput{Config: []byte(cluster), DropIns: [][]byte{nil, []byte(head)}}, Effective{ServerTLSBootstrap: true}},
		"switched off by a drop-in":      {HealthInput{Config: []byte(cluster), DropIns: [][]byte{[]byte(head + "serverTLSBootstrap: false\n")}}, Effective{}},
		"an argument wins":               {HealthInput{Config: []byte(own), Args: []string{"--client-ca-file=/y.crt", "--rotate_server_certificates"}}, Effective{"/y.crt", true}},
		"an argument switches off":       {HealthInput{Config: []byte(cluster), Args: []string{"--rotate-server-certificates=false"}}, Effective{}},
	} {
		if got, err := EffectiveOf(test.in, "/d"); err != nil || got != test.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, test.want)
		}
	}
	if _, err := EffectiveOf(HealthInput{Config: []byte("a: b\na: c\n")}, "/d"); fault.ReasonOf(err) != fault.ConfigInvalid {
		t.Errorf("a damaged one: %v", err)
	}
	if _, err := EffectiveOf(HealthInput{Config: []byte(head + "authentication: none\n")}, "/d"); err == nil {
		t.Error("a field of another kind passed")
	}
}
