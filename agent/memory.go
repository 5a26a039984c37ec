package agent

import (
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet/preflight"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// memory is what the loop remembers between two looks; losing it costs a few
// requests, never correctness.
type memory struct {
	vanishedAt      time.Time     // the pair was first found missing
	leaseFor        time.Duration // the kubelet start (monotonic) whose Lease was seen renewed
	leaseKnown      bool
	node            Node
	nodeAsked       time.Time         // when the API was asked about it last
	annotated       map[string]string // our annotations of it, as seen or written last; nil: not seen
	annotateRefused bool              // the cluster does not let us write them
	versionAsked    bool              // the API server has told its version
	skew            string            // what is to be said of it and the kubelet's
	findings        []*preflight.Row  // of the last look around the machine
	nameWasFree     bool              // the API had no Node of our name before the kubelet was started
	unauthorized    time.Time         // the API answered 401 to the pair for the first time
	rejected        string            // serial of a pair that was refused twice
	suspicion       suspicion         // that the API has ceased to know the pair
	nextAPICheck    time.Time
	eager           time.Duration // pause before the next look at a node that is not Ready yet
	turn            int           // of the questions that take turns, see askAPI
	serving         *pendingAsked // the kubelet's request for its serving certificate
	renewal         *pendingAsked // its request for an overdue renewal
	reissue         reissue       // of a new certificate that the agent asks for with the old one
	follow          following     // of what changes in the cluster
	caClosed        bool
	file            *discovery.File // the discovery file as it could be read last
	leftovers       []Leftover
	spent           spentToken
	lookForDrift    bool     // compare the unit with what would be written now
	renderDrift     []string // what that showed last
	lastUnitStart   time.Duration
	unit            systemd.Unit     // as last seen
	unitAt          time.Duration    // when that was (monotonic)
	existing        systemd.Existing // the unit that was there when the machine was found admissible
	admitted        time.Duration    // when the machine was found admissible (monotonic)
}
