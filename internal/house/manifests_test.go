package house

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// manifests are the files of packaging/cluster with what is in each.
var manifests = map[string][]string{
	"apiserver-to-kubelet.yaml": {"ClusterRoleBinding"},
	"bootstrap-token.yaml":      {"Secret"},
	"cluster-info.yaml":         {"ConfigMap"},
	"join-flow.yaml":            {"PriorityLevelConfiguration", "FlowSchema", "FlowSchema"},
	"kubelet-config.yaml":       {"ConfigMap", "Role", "RoleBinding"},
	"node-deletes-itself.yaml":  {"ClusterRole", "ClusterRoleBinding"},
	"node-join.yaml":            {"ClusterRoleBinding", "ClusterRoleBinding", "ClusterRoleBinding", "Role", "RoleBinding"},
}

// builtIn are the ClusterRoles that they may bind: each comes with every API server.
var builtIn = []string{
	"system:node-bootstrapper", "system:kubelet-api-admin",
	"system:certificates.k8s.io:certificatesigningrequests:nodeclient",
	"system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
}

func TestTheClustersManifestsAreStrictAndOfTheRightKinds(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(top(t), "packaging/cluster/*"))
	if err != nil || len(files) != len(manifests) {
		t.Errorf("packaging/cluster holds %d files, %d are known: %v", len(files), len(manifests), err)
	}
	page, packages := text(t, "docs/cluster.md"), text(t, "packaging/contents.txt")
	for name, want := range manifests {
		t.Run(name, func(t *testing.T) {
			var kinds, roles []string
			for _, document := range strings.Split(text(t, "packaging/cluster/"+name), "\n---\n") {
				kind, role, err := judgeManifest(document, roles)
				if err != nil {
					t.Errorf("%v in\n%s", err, document)
				}
				kinds, roles = append(kinds, kind), append(roles, role)
			}
			if !slices.Equal(kinds, want) {
				t.Errorf("holds %q, want %q", kinds, want)
			}
			if !strings.Contains(page, "`"+name+"`") && !strings.Contains(page, name+"\n") {
				t.Errorf("docs/cluster.md does not name %s", name)
			}
			if !strings.Contains(packages, "deb rpm tar  0644  /usr/share/doc/bootstrap-agent/examples/cluster/"+name+"\n") {
				t.Errorf("%s is not in every package: make contents", name)
			}
		})
	}
}

// judgeManifest decodes one document strictly. role is the Role that it defines.
func judgeManifest(document string, roles []string) (kind, role string, err error) {
	var head struct{ APIVersion, Kind string }
	if err := yaml.Unmarshal([]byte(document), &head); err != nil {
		return "", "", err
	}
	strict := func(into any) error { return yaml.UnmarshalStrict([]byte(document), into) }
	version := "v1"
	switch head.Kind {
	case "Secret":
		var o corev1.Secret
		if err = strict(&o); err == nil && (o.Type != "bootstrap.kubernetes.io/token" || o.Namespace != "kube-system" || o.StringData["token-id"] != strings.TrimPrefix(o.Name, "bootstrap-token-")) {
			err = fmt.Errorf("no bootstrap token: %s %s/%s", o.Type, o.Namespace, o.Name)
		}
	case "ConfigMap":
		var o corev1.ConfigMap
		if err = strict(&o); err == nil && len(o.Data) != 1 {
			err = fmt.Errorf("%d keys", len(o.Data))
		}
		for _, inner := range o.Data {
			var any map[string]any
			if err == nil {
				err = yaml.UnmarshalStrict([]byte(inner), &any)
			}
		}
	case "Role":
		var o rbacv1.Role
		version, err, role = "rbac.authorization.k8s.io/v1", strict(&o), o.Name
		for _, rule := range o.Rules {
			if len(rule.ResourceNames) == 0 || !slices.Equal(rule.Verbs, []string{"get"}) {
				err = fmt.Errorf("role %s allows more than to read one object", o.Name)
			}
		}
	case "ClusterRole":
		var o rbacv1.ClusterRole
		version, err, role = "rbac.authorization.k8s.io/v1", strict(&o), o.Name
		for _, rule := range o.Rules {
			if !slices.Equal(rule.Resources, []string{"nodes"}) || !slices.Equal(rule.Verbs, []string{"delete"}) {
				err = fmt.Errorf("role %s allows more than to delete Nodes", o.Name)
			}
		}
	case "RoleBinding":
		var o rbacv1.RoleBinding
		version, err = "rbac.authorization.k8s.io/v1", strict(&o)
		if err == nil && (o.RoleRef.Kind != "Role" || !slices.Contains(roles, o.RoleRef.Name) || len(o.Subjects) != 1) {
			err = fmt.Errorf("binds %s, which is not above it", o.RoleRef.Name)
		}
	case "ClusterRoleBinding":
		var o rbacv1.ClusterRoleBinding
		version, err = "rbac.authorization.k8s.io/v1", strict(&o)
		if err == nil && (o.RoleRef.Kind != "ClusterRole" || !slices.Contains(slices.Concat(builtIn, roles), o.RoleRef.Name) || len(o.Subjects) != 1) {
			err = fmt.Errorf("binds %s, which comes neither with every API server nor stands above it", o.RoleRef.Name)
		}
	case "PriorityLevelConfiguration":
		var o flowcontrolv1.PriorityLevelConfiguration
		version, err, role = "flowcontrol.apiserver.k8s.io/v1", strict(&o), o.Name
		if err == nil && o.Spec.Type != flowcontrolv1.PriorityLevelEnablementLimited {
			err = fmt.Errorf("a level that strangers get and that is %s", o.Spec.Type)
		}
	case "FlowSchema":
		var o flowcontrolv1.FlowSchema
		version, err = "flowcontrol.apiserver.k8s.io/v1", strict(&o)
		if err == nil && !slices.Contains(roles, o.Spec.PriorityLevelConfiguration.Name) {
			err = fmt.Errorf("names level %s, which is not above it", o.Spec.PriorityLevelConfiguration.Name)
		}
	default:
		err = fmt.Errorf("kind %q is not known here", head.Kind)
	}
	if err == nil && head.APIVersion != version {
		err = fmt.Errorf("apiVersion %s, want %s", head.APIVersion, version)
	}
	return head.Kind, role, err
}

var tokenLike = regexp.MustCompile(`\b[a-z0-9]{6}\.[a-z0-9]{16}\b`)

// What looks like a token in a page or a manifest is the sample of everybody's
// documentation, which the program warns about; manifests hold placeholders that
// it refuses (tested in package discovery).
func TestNoPageShowsATokenThatCouldBeUsed(t *testing.T) {
	pages := []string{"README.md", "packaging/config.example.yaml"}
	for _, pattern := range []string{"docs/*.md", "packaging/cluster/*", "packaging/cloud-init/*"} {
		found, err := filepath.Glob(filepath.Join(top(t), pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, path := range found {
			rel, err := filepath.Rel(top(t), path)
			if err != nil {
				t.Fatal(err)
			}
			pages = append(pages, rel)
		}
	}
	for _, page := range pages {
		for _, token := range tokenLike.FindAllString(text(t, page), -1) {
			if token != "abcdef.0123456789abcdef" {
				t.Errorf("%s shows %s", page, token)
			}
		}
	}
}

func text(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(top(t), path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
