// Package discovery turns endpoints, a bootstrap token and CA pins into a
// trusted cluster: it reads the ConfigMap kube-public/cluster-info over a TLS
// connection that nothing vouches for yet, and believes it step by step.
//
// The order for one endpoint never changes: fetch (own limits for every byte
// and second), the detached JWS made with the token's secret, the strict
// reading of the kubeconfig in it, the pins, and at last the certificate chain
// which the server showed on that same connection, now held against the
// accepted CAs. Several endpoints race; the first one that passed everything
// wins, so that one hostile endpoint cannot decide.
//
// Where an operator hands out server and CA in a kubeconfig (File), there is
// nothing to be signed: its CAs are held against the pins, if there are any, and
// the server's chain against them.
//
// It never sends a credential, never follows a redirect, never reads what a
// stranger sent in order to decide how to check it, and writes no file. The
// token's secret leaves it by Token.Bearer alone.
//
//	Request{Endpoints, Token, Pins} | Request{File, Pins} --Discover--> Cluster{Server, CA, Endpoint}
package discovery
