package kubelet

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// PairStatus says what a client certificate with its key is good for.
type PairStatus string

// In the order in which they are looked for: the first that holds is told.
const (
	PairMissing   PairStatus = "Missing"
	PairDamaged   PairStatus = "Damaged"   // empty, unparsable, key and certificate do not match
	PairWrongName PairStatus = "WrongName" // good, but not for this node
	PairExpired   PairStatus = "Expired"
	PairUsable    PairStatus = "Usable"
)

// LinkStatus says what stands under the name kubelet-client-current.pem.
type LinkStatus string

// The kinds of link. Regular is a file where a link belongs: the kubelet starts
// with it, but can never rotate.
const (
	LinkMissing  LinkStatus = "Missing"
	LinkGood     LinkStatus = "Symlink"
	LinkDangling LinkStatus = "Dangling"
	LinkRegular  LinkStatus = "Regular"
	LinkOther    LinkStatus = "Other" // a folder, a FIFO, ...
)

// PairState is a pair as it is on disk. The certificate's fields are set
// whenever it parses, whatever the status.
type PairState struct {
	Status PairStatus
	Detail string // why it is not usable, in words for a person
	Link   LinkStatus
	Path   string // the file that holds it (the link's target)

	NotBefore, NotAfter time.Time
	CN                  string
	Organization        []string
	Serial              string // hexadecimal
	Issuer              string
	Leaf                *x509.Certificate

	// Updating: kubelet-client-updated.pem lies beside it, the kubelet is just
	// rotating (or died doing so).
	Updating bool
}

// NodeUser is the name under which a node's certificate speaks to the API.
func NodeUser(nodeName string) string { return "system:node:" + nodeName }

// nodeGroup is the one organisation of a node's certificate.
const nodeGroup = "system:nodes"

// JudgePair tells what a pair (certificates, leaf first, and key in one PEM
// text) is good for at this moment. A certificate that is not valid yet counts
// as usable: a clock that runs behind is no reason to ask for another one.
func JudgePair(data []byte, nodeName string, now time.Time) PairState {
	state := PairState{Status: PairDamaged}
	if len(data) == 0 {
		state.Detail = "is empty"
		return state
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		state.Detail = err.Error()
		return state
	}
	leaf := pair.Leaf
	if leaf == nil { // only with GODEBUG=x509keypairleaf=0
		if leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			state.Detail = err.Error()
			return state
		}
	}
	state.Leaf = leaf
	state.NotBefore, state.NotAfter = leaf.NotBefore, leaf.NotAfter
	state.CN, state.Organization = leaf.Subject.CommonName, leaf.Subject.Organization
	state.Issuer = leaf.Issuer.String()
	if leaf.SerialNumber != nil {
		state.Serial = leaf.SerialNumber.Text(16)
	}
	state.Status, state.Detail = judgeLeaf(leaf, nodeName, now)
	return state
}

func judgeLeaf(leaf *x509.Certificate, nodeName string, now time.Time) (PairStatus, string) {
	switch {
	case leaf.Subject.CommonName != NodeUser(nodeName):
		return PairWrongName, fmt.Sprintf("is for %s, not for %s", fault.Quote(leaf.Subject.CommonName), fault.Quote(NodeUser(nodeName)))
	case !slices.Equal(leaf.Subject.Organization, []string{nodeGroup}):
		return PairWrongName, fmt.Sprintf("its organisations are %s, not just %s", fault.Quote(fmt.Sprint(leaf.Subject.Organization)), nodeGroup)
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny):
		return PairDamaged, "is no client certificate"
	case now.After(leaf.NotAfter):
		return PairExpired, "expired at " + leaf.NotAfter.UTC().Format(time.RFC3339)
	}
	return PairUsable, ""
}

// Spent tells how much of the certificate's lifetime has passed at this moment,
// 0 to 1 and beyond; 0 without a certificate.
func (p PairState) Spent(now time.Time) float64 {
	life := p.NotAfter.Sub(p.NotBefore)
	if p.Leaf == nil || life <= 0 {
		return 0
	}
	return float64(now.Sub(p.NotBefore)) / float64(life)
}
