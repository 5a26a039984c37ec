package kubelet

import (
	"fmt"
	"regexp"
	"strings"
)

// Variable is one line of the kubelet's environment file.
type Variable struct{ Name, Value string }

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// environmentEscaper covers what systemd unescapes between double quotes in an
// EnvironmentFile: only these four. Nothing else is special there (no $ of
// variables, no % of specifiers).
var environmentEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", `$`, `\$`)

// ProxyVariables gives the variables that make the kubelet use a proxy; none
// without a proxy. Go programs read these two, and only for https.
func ProxyVariables(proxyURL, noProxy string) []Variable {
	if proxyURL == "" {
		return nil
	}
	vars := []Variable{{"HTTPS_PROXY", proxyURL}}
	if noProxy != "" {
		vars = append(vars, Variable{"NO_PROXY", noProxy})
	}
	return vars
}

// RenderEnvironment writes variables in the form that systemd's
// EnvironmentFile= reads. No variables, no bytes. A faulty value is named, not
// shown: it may hold a password.
func RenderEnvironment(vars []Variable) ([]byte, error) {
	if len(vars) == 0 {
		return nil, nil
	}
	var out strings.Builder
	out.WriteString("# Written by bootstrap-agent; changes are reported as Drifted.\n")
	var found []error
	for _, v := range vars {
		switch {
		case !variableName.MatchString(v.Name):
			found = append(found, fmt.Errorf("environment of the kubelet: %q is no name of a variable", v.Name))
		case control(v.Value):
			found = append(found, fmt.Errorf("environment of the kubelet: the value of %s contains a control character or is no UTF-8", v.Name))
		default:
			fmt.Fprintf(&out, "%s=\"%s\"\n", v.Name, environmentEscaper.Replace(v.Value))
		}
	}
	if err := joined(found); err != nil {
		return nil, err
	}
	return []byte(out.String()), nil
}
