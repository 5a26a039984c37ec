package testapi

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// kind is one resource the server knows.
type kind struct {
	group, resource, kind string
	namespaced            bool
}

var (
	csrs       = kind{"certificates.k8s.io", "certificatesigningrequests", "CertificateSigningRequest", false}
	nodes      = kind{"", "nodes", "Node", false}
	configMaps = kind{"", "configmaps", "ConfigMap", true}
	leases     = kind{"coordination.k8s.io", "leases", "Lease", true}
)

func (k kind) gr() schema.GroupResource {
	return schema.GroupResource{Group: k.group, Resource: k.resource}
}

func (k kind) typeMeta() metav1.TypeMeta {
	return metav1.TypeMeta{Kind: k.kind, APIVersion: schema.GroupVersion{Group: k.group, Version: "v1"}.String()}
}

// event is one line of a resource's history.
type event struct {
	typ string // ADDED, MODIFIED, DELETED
	rv  uint64
	key string // namespace/name
	raw json.RawMessage
}

// store holds objects as the JSON that is sent, so that nobody can change one
// by holding a pointer to it, and the history that watches replay. Its methods
// need the server's lock.
type store struct {
	rv        uint64
	compacted uint64 // history up to here is gone
	items     map[kind]map[string]event
	history   map[kind][]event
}

func newStore() store {
	// A real cluster is never at 1, and a client must not count from 0.
	return store{rv: 1000, items: map[kind]map[string]event{}, history: map[kind][]event{}}
}

func storeKey(namespace, name string) string { return namespace + "/" + name }

// get returns an object's JSON, or nil.
func (st *store) get(k kind, namespace, name string) json.RawMessage {
	return st.items[k][storeKey(namespace, name)].raw
}

// list returns all objects of a kind in a namespace, oldest change first.
func (st *store) list(k kind, namespace string) []json.RawMessage {
	var all []event
	for key, e := range st.items[k] {
		if namespace == "" || len(key) > len(namespace) && key[:len(namespace)+1] == namespace+"/" {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b event) int { return cmp.Compare(a.rv, b.rv) })
	out := make([]json.RawMessage, 0, len(all))
	for _, e := range all {
		out = append(out, e.raw)
	}
	return out
}

// since returns the history of a kind after rv; false when it is gone.
func (st *store) since(k kind, rv uint64) ([]event, bool) {
	if rv < st.compacted {
		return nil, false
	}
	h := st.history[k]
	i, _ := slices.BinarySearchFunc(h, rv+1, func(e event, rv uint64) int { return cmp.Compare(e.rv, rv) })
	return h[i:len(h):len(h)], true
}

// put stores obj with the next resourceVersion, fills in what a server fills in,
// and wakes the watches.
func (s *Server) put(k kind, obj metav1.Object) json.RawMessage {
	key, typ := storeKey(obj.GetNamespace(), obj.GetName()), "MODIFIED"
	if s.store.get(k, obj.GetNamespace(), obj.GetName()) == nil {
		typ = "ADDED"
		obj.SetUID(newUID())
		obj.SetCreationTimestamp(metav1.NewTime(s.now().UTC().Truncate(1e9)))
	}
	return s.commit(k, typ, key, obj)
}

// remove deletes an object; false when there is none.
func (s *Server) remove(k kind, namespace, name string) bool {
	raw := s.store.get(k, namespace, name)
	if raw == nil {
		return false
	}
	whole := decode[map[string]any](raw)
	s.store.rv++
	meta, _ := whole["metadata"].(map[string]any)
	meta["resourceVersion"] = strconv.FormatUint(s.store.rv, 10)
	key := storeKey(namespace, name)
	delete(s.store.items[k], key)
	s.store.history[k] = append(s.store.history[k], event{"DELETED", s.store.rv, key, encode(whole)})
	s.notify()
	return true
}

func (s *Server) commit(k kind, typ, key string, obj metav1.Object) json.RawMessage {
	s.store.rv++
	obj.SetResourceVersion(strconv.FormatUint(s.store.rv, 10))
	e := event{typ, s.store.rv, key, encode(obj)}
	if s.store.items[k] == nil {
		s.store.items[k] = map[string]event{}
	}
	s.store.items[k][key] = e
	s.store.history[k] = append(s.store.history[k], e)
	s.notify()
	return e.raw
}

// CompactHistory forgets all history: a watch from an older resourceVersion is
// told 410 Expired, as after a compaction of etcd.
func (s *Server) CompactHistory() {
	s.set(func() {
		s.store.history = map[kind][]event{}
		s.store.compacted = s.store.rv
	})
}

// encode and decode cannot fail: they see the API's types and their own output.
func encode(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("testapi: cannot encode %T: %v", v, err))
	}
	return raw
}

func decode[T any](raw []byte) T {
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		panic(fmt.Sprintf("testapi: cannot decode %T: %v", v, err))
	}
	return v
}

func newUID() types.UID {
	h := hex.EncodeToString(randomBytes(16))
	return types.UID(h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:])
}
