package testapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// infoState is what is in the cluster-info ConfigMap; under the server's lock.
type infoState struct {
	absent     bool
	signing    bool
	secret     string            // sign with this instead of the token's secret
	fullToken  bool              // sign with "id.secret", as some texts say
	server     string            // instead of our URL
	extraCAs   []byte            // PEM, after our own
	kubeconfig *string           // instead of the rendered one
	jws        map[string]string // signatures by token id that replace the right ones
}

// SetClusterInfo replaces the kubeconfig in cluster-info, byte by byte, and has
// it signed. ResetClusterInfo undoes it.
func (s *Server) SetClusterInfo(kubeconfig string) {
	s.setInfo(func(i *infoState) { i.kubeconfig = &kubeconfig })
}

// SetClusterInfoServer replaces only the server URL in it.
func (s *Server) SetClusterInfoServer(url string) {
	s.setInfo(func(i *infoState) { i.server = url })
}

// AddClusterInfoCA appends certificates (PEM) to the bundle in it.
func (s *Server) AddClusterInfoCA(pem []byte) {
	s.setInfo(func(i *infoState) { i.extraCAs = append(i.extraCAs, pem...) })
}

// DeleteClusterInfo removes the ConfigMap: 404.
func (s *Server) DeleteClusterInfo() { s.setInfo(func(i *infoState) { i.absent = true }) }

// ResetClusterInfo makes cluster-info right again.
func (s *Server) ResetClusterInfo() {
	s.setInfo(func(i *infoState) { *i = infoState{signing: true, jws: map[string]string{}} })
}

// RemoveSignatures switches the signer off: no jws-kubeconfig-* keys at all.
func (s *Server) RemoveSignatures() { s.setInfo(func(i *infoState) { i.signing = false }) }

// SignWith signs with another secret than the tokens'.
func (s *Server) SignWith(secret string) { s.setInfo(func(i *infoState) { i.secret = secret }) }

// SignWithFullToken signs with "id.secret" as the key.
func (s *Server) SignWithFullToken() { s.setInfo(func(i *infoState) { i.fullToken = true }) }

// SetSignature puts any text under jws-kubeconfig-<id>.
func (s *Server) SetSignature(id, jws string) { s.setInfo(func(i *infoState) { i.jws[id] = jws }) }

// Kubeconfig is the text that cluster-info holds now.
func (s *Server) Kubeconfig() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kubeconfig()
}

func (s *Server) setInfo(change func(*infoState)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.info)
	s.refreshClusterInfo()
	s.notify()
}

// kubeconfig renders as kubeadm does; the lock is held.
func (s *Server) kubeconfig() string {
	if s.info.kubeconfig != nil {
		return *s.info.kubeconfig
	}
	server := s.info.server
	if server == "" {
		server = s.URL()
	}
	bundle := s.pki.serving.pem()
	if s.pki.next != nil {
		bundle = append(bundle, s.pki.next.pem()...)
	}
	for _, old := range s.pki.retired {
		bundle = append(bundle, old.pem()...)
	}
	bundle = append(bundle, s.info.extraCAs...)
	return strings.Join([]string{
		"apiVersion: v1", "clusters:", "- cluster:",
		"    certificate-authority-data: " + base64.StdEncoding.EncodeToString(bundle),
		"    server: " + server,
		`  name: ""`, "contexts: null", `current-context: ""`, "kind: Config", "preferences: {}", "users: null", "",
	}, "\n")
}

// refreshClusterInfo is the signer: it writes the ConfigMap anew when something
// in it has changed; the lock is held or nobody else is there.
func (s *Server) refreshClusterInfo() {
	const namespace, name = "kube-public", "cluster-info"
	if s.info.absent {
		s.remove(configMaps, namespace, name)
		return
	}
	data := map[string]string{"kubeconfig": s.kubeconfig()}
	for id, t := range s.auth.tokens {
		key := t.Secret
		if s.info.secret != "" {
			key = s.info.secret
		}
		if s.info.fullToken {
			key = id + "." + t.Secret
		}
		expired := !t.Expires.IsZero() && !s.now().Before(t.Expires)
		if s.info.signing && !t.NoSigning && !expired {
			data["jws-kubeconfig-"+id] = detachedJWS(data["kubeconfig"], id, key)
		}
	}
	for id, jws := range s.info.jws {
		data["jws-kubeconfig-"+id] = jws
	}
	var cm corev1.ConfigMap
	if old := s.store.get(configMaps, namespace, name); old != nil {
		cm = decode[corev1.ConfigMap](old)
	}
	if maps.Equal(cm.Data, data) {
		return
	}
	cm.TypeMeta = configMaps.typeMeta()
	cm.Namespace, cm.Name, cm.Data = namespace, name, data
	s.put(configMaps, &cm)
}

// detachedJWS is RFC 7515 appendix F with HS256, as the bootstrap signer makes it.
func detachedJWS(payload, id, secret string) string {
	enc := base64.RawURLEncoding
	header := enc.EncodeToString([]byte(`{"alg":"HS256","kid":"` + id + `"}`))
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = mac.Write([]byte(header + "." + enc.EncodeToString([]byte(payload)))) // a hash never fails
	return header + ".." + enc.EncodeToString(mac.Sum(nil))
}

// defaultKubeletConfig is a small kubelet-config of a kubeadm cluster.
const defaultKubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous:
    enabled: false
  webhook:
    cacheTTL: 0s
    enabled: true
  x509:
    clientCAFile: /etc/kubernetes/pki/ca.crt
authorization:
  mode: Webhook
cgroupDriver: systemd
clusterDNS:
- 10.96.0.10
clusterDomain: cluster.local
healthzBindAddress: 127.0.0.1
healthzPort: 10248
kind: KubeletConfiguration
rotateCertificates: true
staticPodPath: /etc/kubernetes/manifests
`

// SetKubeletConfig sets the key "kubelet" of ConfigMap kube-system/kubelet-config.
func (s *Server) SetKubeletConfig(text string) { s.set(func() { s.setKubeletConfig(text) }) }

// RemoveKubeletConfig deletes that ConfigMap: 404.
func (s *Server) RemoveKubeletConfig() {
	s.set(func() { s.remove(configMaps, "kube-system", "kubelet-config") })
}

func (s *Server) setKubeletConfig(text string) {
	cm := corev1.ConfigMap{
		TypeMeta:   configMaps.typeMeta(),
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kubelet-config"},
		Data:       map[string]string{"kubelet": text},
	}
	s.put(configMaps, &cm)
}
