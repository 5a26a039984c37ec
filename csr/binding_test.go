package csr

import (
	"errors"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestTheBindingIsForTheNarrowestGroupAndSafeToPaste(t *testing.T) {
	const role = " --clusterrole=system:node-bootstrapper "
	const name = "kubectl create clusterrolebinding bootstrap-agent:create-csrs"
	for what, test := range map[string]struct {
		user   string
		groups []string
		want   string
	}{
		"the group of all tokens":        {"u", []string{"system:bootstrappers", "system:authenticated"}, name + role + "--group=system:bootstrappers"},
		"a token's own":                  {"u", []string{"system:bootstrappers", "system:bootstrappers:blue"}, name + ":blue" + role + "--group=system:bootstrappers:blue"},
		"the first of two of its own":    {"u", []string{"system:bootstrappers:a", "system:bootstrappers:b", "system:bootstrappers"}, name + ":a" + role + "--group=system:bootstrappers:a"},
		"a node's":                       {"u", []string{"system:nodes", "system:authenticated"}, name + role + "--group=system:nodes"},
		"of a static token":              {"u", []string{"joiners/eu", "system:authenticated"}, name + ":joiners-eu" + role + "--group=joiners/eu"},
		"none":                           {"system:bootstrap:abcdef", []string{"system:authenticated"}, name + role + "--user=system:bootstrap:abcdef"},
		"one that a shell would read":    {"u", []string{"a;reboot", "$(reboot)", "a b"}, name + role + "--user=u"},
		"one that looks like a flag":     {"u", []string{"--kubeconfig"}, name + role + "--user=u"},
		"nobody who can be named":        {"`reboot`", []string{"'"}, ""},
		"nobody, and a far too long one": {"", []string{strings.Repeat("a", 254)}, ""},
	} {
		if got := mayAsk.command(test.user, test.groups); got != test.want {
			t.Errorf("%s:\n%s, want\n%s", what, got, test.want)
		}
	}
}

func TestWhoMayNotAskAndCannotFindOutWhyIsToldTheUsualRemedy(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		a := start(t, &fakeAPI{
			onCreate: func(o *certificatesv1.CertificateSigningRequest) error {
				return apierrors.NewForbidden(resource, o.Name, errors.New("no"))
			},
			onWhoAmI: func() (string, []string, error) { return "", nil, errUnplugged },
		}, dir)
		_, err := a.mustEnd(t)
		if row, _ := fault.Lookup(fault.CSRForbidden); fault.ReasonOf(err) != fault.CSRForbidden || fault.HintOf(err) != row.Remedy {
			t.Errorf("%v, hint %q", err, fault.HintOf(err))
		}
	})
}

func TestAStaticTokenIsNotSentToASecretThatItDoesNotHave(t *testing.T) {
	if hint := secretHint("joiner"); hint != "" {
		t.Errorf("hint %q", hint)
	}
}
