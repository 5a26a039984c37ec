package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// api is the administrator's view of the cluster: it sees Nodes appear.
type api struct {
	client *http.Client
	server string
}

func newAPI(kubeconfig string) (*api, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	return &api{client, config.Host}, nil
}

func (a *api) close() { a.client.CloseIdleConnections() }

// watchNode opens a watch on a Node that does not exist yet; it returns when the
// server has begun to answer, so nothing can be missed. seen gets the time of
// the first event, or is closed when the watch ended without one.
func (a *api) watchNode(ctx context.Context, name string) (seen <-chan time.Time, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.server+"/api/v1/nodes?watch=1&fieldSelector=metadata.name%3D"+name, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := a.client.Do(req) //nolint:bodyclose // the goroutine below closes it
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("cannot watch the node: %s", resp.Status), resp.Body.Close())
	}
	events := make(chan time.Time, 1)
	go func() {
		defer close(events)
		defer func() { _ = resp.Body.Close() }() // its end is the caller's ctx
		var event struct{ Type string }
		if err := json.NewDecoder(resp.Body).Decode(&event); err == nil && event.Type == "ADDED" {
			events <- time.Now()
		}
	}()
	return events, nil
}

// issueNodePair makes the client certificate and key of a node as the cluster's
// signer would, in one PEM text.
func issueNodePair(dir, node string) (string, error) {
	ca, err := tls.LoadX509KeyPair(filepath.Join(dir, "pki/ca.crt"), filepath.Join(dir, "pki/ca.key"))
	if err != nil {
		return "", err
	}
	parent, err := x509.ParseCertificate(ca.Certificate[0])
	if err != nil {
		return "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}},
		NotBefore: time.Now().Add(-5 * time.Minute), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, parent, key.Public(), ca.PrivateKey)
	if err != nil {
		return "", err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})), nil
}
