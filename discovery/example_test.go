package discovery

import (
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Who applies the example manifests as they are gets a cluster that nobody can
// join, and is told what was left to fill in.
func TestThePlaceholdersOfTheExampleManifestsAreRefused(t *testing.T) {
	read := func(name string, into any) {
		t.Helper()
		data, err := os.ReadFile("../packaging/cluster/" + name)
		if err == nil {
			err = yaml.UnmarshalStrict(data, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var secret struct {
		APIVersion, Kind, Type string
		Metadata               map[string]string
		StringData             map[string]string
	}
	read("bootstrap-token.yaml", &secret)
	for _, text := range []string{
		secret.StringData["token-id"] + "." + secret.StringData["token-secret"],
		secret.StringData["token-id"] + ".0123456789abcdef", "abcdef." + secret.StringData["token-secret"],
	} {
		if _, err := ParseToken(text); fault.ReasonOf(err) != fault.ConfigInvalid {
			t.Errorf("%s: %v", text, err)
		}
	}
	if token, err := ParseToken("abcdef.0123456789abcdef"); err != nil || token.Weak() == "" {
		t.Errorf("the sample of the docs: %v, no warning", err)
	}

	var info struct {
		APIVersion, Kind string
		Metadata, Data   map[string]string
	}
	read("cluster-info.yaml", &info)
	if _, err := parseKubeconfig(info.Data["kubeconfig"]); fault.ReasonOf(err) != fault.ClusterInfoInvalid {
		t.Errorf("cluster-info: %v", err)
	}
	// Filled in, it is what is accepted: nothing else in it is refused.
	filled := strings.ReplaceAll(info.Data["kubeconfig"], "authority-data: CHANGE-ME", "authority-data: QQ==")
	if _, err := parseKubeconfig(filled); err != nil {
		t.Errorf("filled in: %v", err)
	}
}
