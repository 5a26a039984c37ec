package crowd

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
)

// Server is what the API server says it has done, from one Look to another.
type Server struct {
	// Requests by what was asked, "CREATE nodes" say, of everybody: controllers, too.
	Requests map[string]float64
	// Answers by status code.
	Answers map[string]float64
	// Rejected by priority and fairness, and what it has let wait, by flow schema.
	Rejected map[string]float64
	Waits    map[string]Wait
	// Processor is what each component has used.
	Processor map[string]time.Duration
}

// Wait is how long requests of one flow schema waited for their turn.
type Wait struct {
	Requests float64
	Seconds  float64             // all together
	Within   map[float64]float64 // upper bound in seconds -> requests that waited no longer
}

// AtMost is the least bound of the histogram within which a share q of the requests
// began; false when more waited longer than its last bound.
func (w Wait) AtMost(q float64) (time.Duration, bool) {
	for _, bound := range slices.Sorted(maps.Keys(w.Within)) {
		if w.Within[bound] >= q*w.Requests {
			return time.Duration(bound * float64(time.Second)), true
		}
	}
	return 0, false
}

// components whose processor time is looked at.
var components = []string{"kube-apiserver", "etcd", "kube-controller-manager"}

// Look reads the counters of the API server and the clocks of all components.
func Look(ctx context.Context, c *cluster.Cluster) (Server, error) {
	s := Server{
		Requests: map[string]float64{}, Answers: map[string]float64{}, Rejected: map[string]float64{},
		Waits: map[string]Wait{}, Processor: map[string]time.Duration{},
	}
	for _, name := range components {
		used, err := c.ProcessorTime(name)
		if err != nil {
			return s, err
		}
		s.Processor[name] = used
	}
	text, err := c.Kubectl(ctx, "get", "--raw", "/metrics")
	if err != nil {
		return s, err
	}
	for line := range strings.Lines(text) {
		name, labels, value, ok := sample(line)
		if !ok {
			continue
		}
		schema := labels["flow_schema"]
		switch name {
		case "apiserver_request_total":
			s.Requests[labels["verb"]+" "+labels["resource"]] += value
			s.Answers[labels["code"]] += value
		case "apiserver_flowcontrol_rejected_requests_total":
			s.Rejected[schema] += value
		case "apiserver_flowcontrol_request_wait_duration_seconds_sum":
			w := s.wait(schema)
			w.Seconds += value
			s.Waits[schema] = w
		case "apiserver_flowcontrol_request_wait_duration_seconds_count":
			w := s.wait(schema)
			w.Requests += value
			s.Waits[schema] = w
		case "apiserver_flowcontrol_request_wait_duration_seconds_bucket":
			if bound, err := strconv.ParseFloat(labels["le"], 64); err == nil && labels["le"] != "+Inf" {
				s.wait(schema).Within[bound] += value
			}
		}
	}
	return s, nil
}

func (s Server) wait(schema string) Wait {
	w, known := s.Waits[schema]
	if !known {
		w.Within = map[float64]float64{}
		s.Waits[schema] = w
	}
	return w
}

// Since is what has happened since an earlier look.
func (s Server) Since(before Server) Server {
	out := Server{
		Requests: less(s.Requests, before.Requests), Answers: less(s.Answers, before.Answers), Rejected: less(s.Rejected, before.Rejected),
		Waits: map[string]Wait{}, Processor: less(s.Processor, before.Processor),
	}
	for schema, w := range s.Waits {
		b := before.Waits[schema]
		if w.Requests > b.Requests {
			out.Waits[schema] = Wait{w.Requests - b.Requests, w.Seconds - b.Seconds, less(w.Within, b.Within)}
		}
	}
	return out
}

// less subtracts and leaves out what has not changed; bounds of a histogram (K is
// a number) all stay.
func less[K comparable, V float64 | time.Duration](after, before map[K]V) map[K]V {
	out := map[K]V{}
	for k, v := range after {
		_, bound := any(k).(float64)
		if v != before[k] || bound {
			out[k] = v - before[k]
		}
	}
	return out
}

// sample reads one line of Prometheus' text format, as the API server writes it.
func sample(line string) (name string, labels map[string]string, value float64, ok bool) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", nil, 0, false
	}
	name, rest, has := strings.Cut(line, "{")
	labels = map[string]string{}
	if !has {
		return "", nil, 0, false // nothing here is without labels
	}
	inside, number, has := strings.Cut(rest, "} ")
	if !has {
		return "", nil, 0, false
	}
	for inside != "" {
		key, after, has := strings.Cut(inside, `="`)
		if !has {
			return "", nil, 0, false
		}
		text, after, has := strings.Cut(after, `"`) // none of the labels looked at has a quote in it
		if !has {
			return "", nil, 0, false
		}
		labels[strings.TrimPrefix(key, ",")] = text
		inside = after
	}
	value, err := strconv.ParseFloat(strings.Fields(number)[0], 64)
	return name, labels, value, err == nil
}
