package testapi

import (
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestANodeMayPatchItsOwnAnnotationsAndNothingElse(t *testing.T) {
	s := quiet(t)
	s.RegisterNode("n1", corev1.NodeSystemInfo{})
	s.RegisterNode("n2", corev1.NodeSystemInfo{})
	s.MutateNode("n1", func(n *corev1.Node) { n.Annotations = map[string]string{"theirs": "x", "old": "y"} })
	own := s.node(t, "n1")
	const merge, good = "application/merge-patch+json", `{"metadata":{"annotations":{"new":"z","old":null}}}`
	for _, tc := range []struct {
		what, path, media, body string
		as                      *client
		want                    int
	}{
		{"its own annotations", "/api/v1/nodes/n1", merge, good, own, http.StatusOK},
		{"those of another", "/api/v1/nodes/n2", merge, good, own, http.StatusForbidden},
		{"with a token", "/api/v1/nodes/n1", merge, good, s.as(t, s.Token()), http.StatusForbidden},
		{"labels", "/api/v1/nodes/n1", merge, `{"metadata":{"labels":{"a":"b"}}}`, own, http.StatusBadRequest},
		{"taints", "/api/v1/nodes/n1", merge, `{"spec":{"taints":null}}`, own, http.StatusBadRequest},
		{"in another language", "/api/v1/nodes/n1", "application/yaml", good, own, http.StatusUnsupportedMediaType},
		{"none that exists", "/api/v1/nodes/n3", merge, good, s.node(t, "n3"), http.StatusNotFound},
	} {
		got, err := tc.as.try(t.Context(), http.MethodPatch, tc.path, []byte(tc.body), "Content-Type", tc.media)
		if err != nil || got.status != tc.want {
			t.Errorf("%s: %v, status %d, want %d: %s", tc.what, err, got.status, tc.want, got.body)
		}
	}
	if got := s.Node("n1").Annotations; len(got) != 2 || got["theirs"] != "x" || got["new"] != "z" {
		t.Errorf("%q", got)
	}
	s.NodePatchForbidden(true)
	if got, err := own.try(t.Context(), http.MethodPatch, "/api/v1/nodes/n1", []byte(good), "Content-Type", merge); err != nil || got.status != http.StatusForbidden {
		t.Errorf("%v, %d", err, got.status)
	}
}
