// Package cluster runs a real control plane for tests, the demo and the
// benchmark: etcd, kube-apiserver and kube-controller-manager as processes of
// this host, in a scratch folder, on loopback or on an address that machines
// reach. Two shapes exist, because both must be joined: as kubeadm makes
// clusters, and by hand, without a single object of kubeadm's.
//
// It never runs a scheduler, pods or a network, never fsyncs (a power cut loses
// the cluster, which is fine), never outlives the process that started it, and
// needs no root.
//
//	Options --Start--> *Cluster{Endpoint, Pin, NewToken, Kubectl, ...} --Stop--> gone
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/cache"
)

// Shape is how the cluster came to be.
type Shape string

// The shapes.
const (
	// Kubeadm: PKI, RBAC, cluster-info and kubelet-config made by kubeadm's own
	// phases; tokens are in the group kubeadm gives them.
	Kubeadm Shape = "kubeadm"
	// ByHand: made by the commands of docs/cluster.md. No kubelet-config, no
	// kubeadm groups, nodes may not be read by tokens.
	ByHand Shape = "by-hand"
)

// Options of a control plane. The zero value is a kubeadm-shaped one on 127.0.0.1.
type Options struct {
	Shape           Shape
	Bin             string        // folder of the components, of another release say; Binaries() when empty
	Address         string        // what the API server listens on and calls itself; 127.0.0.1
	ExtraSANs       []string      // more names or addresses in its certificate
	SigningDuration time.Duration // of client certificates; the controller-manager's default (a year) when 0
	Controllers     []string      // of the controller-manager; "*", "bootstrapsigner", "tokencleaner"
	NoAutoApproval  bool          // leave the CSRs of bootstrap tokens to a person
	APIServerFlags  []string      // added last, so they win
	Authorities     Authorities   // of a cluster made by hand: more than one CA
	VerifyKubelets  bool          // the API server checks the serving certificates of kubelets against the signing CA
	// PlainKubeletConfig leaves kubelet-config as kubeadm writes it. Else it
	// holds KubeletSettings, without which no kubelet runs in a machine of the lab.
	PlainKubeletConfig bool
	Log                Log
}

// Cluster is a control plane that runs.
type Cluster struct {
	Options
	Dir string // scratch: configuration, keys, <component>.log

	port    string
	slot    *cache.Slot
	pki     pki
	admin   *http.Client
	nobody  *http.Client // without a certificate
	flags   map[string][]string
	mu      sync.Mutex // guards running
	running map[string]*process
}

// stopGrace is how long an API server may take to end in order: it lingers for a
// minute while watches are open.
const stopGrace = 5 * time.Second

// Start starts a control plane and returns when it serves an administrator, its
// controllers run and its objects are there (10 to 20 seconds on two cores).
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	if opts.Bin == "" {
		bin, err := Binaries()
		if err != nil {
			return nil, err
		}
		opts.Bin = bin
	}
	if opts.Shape == "" {
		opts.Shape = Kubeadm
	}
	if opts.Address == "" {
		opts.Address = "127.0.0.1"
	}
	if opts.Controllers == nil {
		opts.Controllers = []string{"*", "bootstrapsigner", "tokencleaner"}
	}
	// Between the choice of a port and its use somebody else may take it.
	var faults error
	for range 3 {
		c, err := startOnce(ctx, opts)
		if err == nil {
			return c, nil
		}
		faults = err
		if !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	return nil, fmt.Errorf("cannot start a control plane: %w", faults)
}

func startOnce(ctx context.Context, opts Options) (c *Cluster, err error) {
	began := time.Now()
	slot, err := cache.Take("cluster", nil) // the processes of a dead owner died with it
	if err != nil {
		return nil, err
	}
	// Not the named result: "return nil, err" empties it before the deferred call.
	begun := &Cluster{Options: opts, Dir: slot.Dir, slot: slot, running: map[string]*process{}, flags: map[string][]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, begun.Stop())
		}
	}()
	c = begun
	ports, err := freePorts("127.0.0.1", 3)
	if err != nil {
		return nil, err
	}
	own, err := freePorts(opts.Address, 1)
	if err != nil {
		return nil, err
	}
	c.port = own[0]
	c.plan(ports[0], ports[1], ports[2])
	if err := c.run("etcd"); err != nil {
		return nil, err
	}
	shape := shapes[opts.Shape]
	if shape.keys == nil {
		return nil, fmt.Errorf("no shape %q", opts.Shape)
	}
	if err := shape.keys(ctx, c); err != nil {
		return nil, err
	}
	if c.pki, c.admin, c.nobody, err = c.readKeys(); err != nil {
		return nil, err
	}
	if err := c.run("kube-apiserver"); err != nil {
		return nil, err
	}
	if err := c.AwaitAPI(ctx); err != nil {
		return nil, err
	}
	// Not before: without its RBAC the controller-manager gives up.
	if err := c.run("kube-controller-manager"); err != nil {
		return nil, err
	}
	if err := shape.objects(ctx, c); err != nil {
		return nil, err
	}
	if err := c.awaitControllers(ctx); err != nil {
		return nil, err
	}
	c.Log.Printf("control plane (%s) serves on %s after %s", opts.Shape, c.Endpoint(), time.Since(began).Round(100*time.Millisecond))
	return c, nil
}

// plan writes down how each component is started, so that it can be again.
func (c *Cluster) plan(clientPort, peerPort, managerPort string) {
	file := func(name string) string { return filepath.Join(c.Dir, name) }
	client, peer := "http://127.0.0.1:"+clientPort, "http://127.0.0.1:"+peerPort
	c.flags["etcd"] = []string{
		"--data-dir", file("etcd"), "--unsafe-no-fsync", "--log-level", "warn",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
	}
	c.flags["kube-apiserver"] = append([]string{
		"--etcd-servers=" + client, "--bind-address=" + c.Address, "--advertise-address=" + c.Address, "--secure-port=" + c.port,
		"--endpoint-reconciler-type=none", // a loopback address is no endpoint, and nobody asks for it
		"--service-cluster-ip-range=10.96.0.0/16",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--enable-bootstrap-token-auth=true", "--anonymous-auth=true", "--allow-privileged=true",
		"--client-ca-file=" + file(c.signingCA()+".crt"),
		"--kubelet-preferred-address-types=InternalIP,Hostname", // as kubeadm has it: nobody resolves the names of machines
		"--kubelet-client-certificate=" + file("pki/apiserver-kubelet-client.crt"), "--kubelet-client-key=" + file("pki/apiserver-kubelet-client.key"),
		"--tls-cert-file=" + file("pki/apiserver.crt"), "--tls-private-key-file=" + file("pki/apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + file("pki/sa.pub"), "--service-account-signing-key-file=" + file("pki/sa.key"),
	}, c.APIServerFlags...)
	if c.VerifyKubelets {
		c.flags["kube-apiserver"] = append(c.flags["kube-apiserver"], "--kubelet-certificate-authority="+file(c.signingCA()+".crt"))
	}
	manager := []string{
		"--kubeconfig=" + file("controller-manager.conf"),
		"--bind-address=127.0.0.1", "--secure-port=" + managerPort,
		"--leader-elect=false", "--use-service-account-credentials=true",
		"--controllers=" + strings.Join(c.Controllers, ","),
		"--cluster-signing-cert-file=" + file(c.signingCA()+".crt"), "--cluster-signing-key-file=" + file(c.signingCA()+".key"),
		"--root-ca-file=" + file("pki/ca.crt"), "--service-account-private-key-file=" + file("pki/sa.key"),
	}
	if c.SigningDuration > 0 {
		manager = append(manager, "--cluster-signing-duration="+c.SigningDuration.String())
	}
	c.flags["kube-controller-manager"] = manager
}

func (c *Cluster) run(name string) error {
	p, err := c.start(name, c.flags[name]...)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running[name] = p
	return nil
}

// take forgets a component and returns it; nil when it does not run.
func (c *Cluster) take(name string) *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.running[name]
	delete(c.running, name)
	return p
}

// alive returns the last words of the components that ended by themselves.
func (c *Cluster) alive() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var faults []error
	for _, p := range c.running {
		faults = append(faults, p.ended())
	}
	return errors.Join(faults...)
}

// AwaitAPI waits until the API server is ready in the eyes of an administrator.
func (c *Cluster) AwaitAPI(ctx context.Context) error {
	return await.Until(ctx, "the API server", 50*time.Millisecond, func(ctx context.Context) error {
		if err := c.alive(); err != nil {
			return await.Stop(err)
		}
		return c.Get(ctx, "/readyz", nil)
	})
}

// awaitControllers waits for the first work of the controllers. Their process
// says it is well before it has built them, and until then it dies of an API
// server that goes away.
func (c *Cluster) awaitControllers(ctx context.Context) error {
	if !slices.Contains(c.Controllers, "*") {
		return nil
	}
	return await.Until(ctx, "the controllers", 50*time.Millisecond, func(ctx context.Context) error {
		if err := c.alive(); err != nil {
			return await.Stop(err)
		}
		return c.Get(ctx, "/api/v1/namespaces/kube-public/configmaps/kube-root-ca.crt", nil)
	})
}

// StopAPI stops the API server (etcd and the controllers stay), StartAPI starts
// it again on the same address: an outage.
func (c *Cluster) StopAPI() { c.take("kube-apiserver").stop(stopGrace) }

// StartAPI ends the outage that StopAPI began.
func (c *Cluster) StartAPI(ctx context.Context) error {
	c.admin.CloseIdleConnections()
	c.nobody.CloseIdleConnections()
	if err := c.run("kube-apiserver"); err != nil {
		return err
	}
	return c.AwaitAPI(ctx)
}

// StopControllers stops the controller-manager: nothing is signed, approved or
// cleaned up from here on. StartControllers starts it again.
func (c *Cluster) StopControllers() { c.take("kube-controller-manager").stop(stopGrace) }

// StartControllers ends what StopControllers began, with further flags (they
// stay until the next start). It does not wait for the controllers' first work.
func (c *Cluster) StartControllers(flags ...string) error {
	p, err := c.start("kube-controller-manager", append(slices.Clone(c.flags["kube-controller-manager"]), flags...)...)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running["kube-controller-manager"] = p
	return nil
}

// Stop kills all components, waits until they are gone and removes the folder:
// nothing in it will ever be read again, so there is nothing to end in order.
// Twice is once, and nil is stopped.
func (c *Cluster) Stop() error {
	if c == nil {
		return nil
	}
	if c.admin != nil {
		c.admin.CloseIdleConnections()
		c.nobody.CloseIdleConnections()
	}
	for _, name := range []string{"kube-controller-manager", "kube-apiserver", "etcd"} {
		c.take(name).stop(0)
	}
	slot := c.slot
	c.slot = nil
	return slot.Release()
}

// Logs returns the last n lines of each component.
func (c *Cluster) Logs(n int) string {
	var out strings.Builder
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager"} {
		text, err := os.ReadFile(filepath.Join(c.Dir, name+".log"))
		if err != nil {
			text = []byte(err.Error())
		}
		fmt.Fprintf(&out, "--- %s\n%s\n", name, tail(text, n))
	}
	return out.String()
}

// Endpoint is host:port of the API server.
func (c *Cluster) Endpoint() string { return net.JoinHostPort(c.Address, c.port) }

// ClientCA is the certificate of the authority that signs for clients and
// kubelets, PEM: the cluster's, unless Authorities says otherwise.
func (c *Cluster) ClientCA() []byte { return c.pki.clientPEM }

// ClientPin is the pin of ClientCA.
func (c *Cluster) ClientPin() string { return c.pki.clientPin }

// CA is the certificate of the cluster's authority, PEM.
func (c *Cluster) CA() []byte { return c.pki.caPEM }

// Pin is the pin of that certificate as kubeadm prints it: sha256:<64 hex>.
func (c *Cluster) Pin() string { return c.pki.pin }

// AdminKubeconfig is the path of the administrator's kubeconfig.
func (c *Cluster) AdminKubeconfig() string { return filepath.Join(c.Dir, "admin.conf") }
