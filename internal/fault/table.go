package fault

// The reasons, in the order of the documentation: reaching the cluster,
// trusting it, being admitted, running the kubelet, the machine itself, notes.
const (
	EndpointUnreachable  Reason = "EndpointUnreachable"
	DNSFailure           Reason = "DNSFailure"
	TLSHandshakeFailed   Reason = "TLSHandshakeFailed"
	Throttled            Reason = "Throttled"
	ServerError          Reason = "ServerError"
	ClusterInfoMissing   Reason = "ClusterInfoMissing"
	ClusterInfoForbidden Reason = "ClusterInfoForbidden"
	ClusterInfoInvalid   Reason = "ClusterInfoInvalid"
	NoSignatures         Reason = "NoSignatures"
	TokenUnknown         Reason = "TokenUnknown"
	SignatureMismatch    Reason = "SignatureMismatch"
	CAPinMismatch        Reason = "CAPinMismatch"
	PinRequired          Reason = "PinRequired"

	ServerCertificateInvalid Reason = "ServerCertificateInvalid"
	ClockSkew                Reason = "ClockSkew"

	TokenMissing       Reason = "TokenMissing"
	TokenRejected      Reason = "TokenRejected"
	CSRForbidden       Reason = "CSRForbidden"
	CSRPending         Reason = "CSRPending"
	CSRDenied          Reason = "CSRDenied"
	CSRFailed          Reason = "CSRFailed"
	CSRDeleted         Reason = "CSRDeleted"
	CSRNotSigned       Reason = "CSRNotSigned"
	CertificateInvalid Reason = "CertificateInvalid"
	NodeNameTaken      Reason = "NodeNameTaken"
	MachineChanged     Reason = "MachineChanged"

	KubeletMissing    Reason = "KubeletMissing"
	KubeletTooOld     Reason = "KubeletTooOld"
	RuntimeNotReady   Reason = "RuntimeNotReady"
	UnitMasked        Reason = "UnitMasked"
	UnitOverridden    Reason = "UnitOverridden"
	MachineUnfit      Reason = "MachineUnfit"
	KubeletFailed     Reason = "KubeletFailed"
	KubeletUnhealthy  Reason = "KubeletUnhealthy"
	NodeNotRegistered Reason = "NodeNotRegistered"
	ForeignKubelet    Reason = "ForeignKubelet"
	NotAdoptable      Reason = "NotAdoptable"

	WriteFailed   Reason = "WriteFailed"
	Locked        Reason = "Locked"
	ConfigInvalid Reason = "ConfigInvalid"

	CAOffered            Reason = "CAOffered"
	ServerOffered        Reason = "ServerOffered"
	CARefreshUnavailable Reason = "CARefreshUnavailable"
	RenewalNotAutomatic  Reason = "RenewalNotAutomatic"
	RenewalOverdue       Reason = "RenewalOverdue"
	ReissuePending       Reason = "ReissuePending"
	ClientCAMissing      Reason = "ClientCAMissing"

	ServingCertificatePending Reason = "ServingCertificatePending"

	NodeDeleted     Reason = "NodeDeleted"
	NodeNotReady    Reason = "NodeNotReady"
	KubeletStopped  Reason = "KubeletStopped"
	TokenLeftBehind Reason = "TokenLeftBehind"
	Drifted         Reason = "Drifted"
	VersionSkew     Reason = "VersionSkew"
	MachineWarning  Reason = "MachineWarning"

	MetricsUnavailable Reason = "MetricsUnavailable"
)

var table = []Entry{
	{EndpointUnreachable, Retry, ExitTemporary,
		"None of the configured endpoints accepted a connection in time.",
		"Check that `endpoints` names the API server's host and port and that nothing between here and there drops TCP: `curl -k https://HOST:PORT/version`."},
	{DNSFailure, Retry, ExitTemporary,
		"The name of an endpoint could not be resolved.",
		"Check /etc/resolv.conf and that the name exists: `getent hosts NAME`. An IP address in `endpoints` needs no DNS."},
	{TLSHandshakeFailed, Retry, ExitTemporary,
		"A TCP connection was made, but no TLS session came of it.",
		"Something other than the API server may be listening there, or a middlebox cuts TLS: `openssl s_client -connect HOST:PORT`."},
	{Throttled, Retry, ExitTemporary,
		"The API server answered 429: it is asked too much.",
		"Nothing to do: the agent waits as long as the server asked. If it stays, look at API priority and fairness on the server."},
	{ServerError, Retry, ExitTemporary,
		"The API server answered with a 5xx status, or with something that is no Kubernetes answer.",
		"Look at the API server (and etcd behind it); the agent keeps asking with growing pauses."},
	{ClusterInfoMissing, Slow, ExitRefused,
		"The API server has no ConfigMap kube-public/cluster-info.",
		"Create it: `kubeadm init phase bootstrap-token`, or by hand with the manifests in /usr/share/doc/bootstrap-agent/examples/cluster."},
	{ClusterInfoForbidden, Slow, ExitRefused,
		"The API server does not let an anonymous client read kube-public/cluster-info.",
		"Allow it (Role and RoleBinding for system:anonymous on that one ConfigMap), or check that --anonymous-auth has not been turned off for this path. Where anonymous access stays closed, name a kubeconfig with server and CA in `discoveryFile`."},
	{ClusterInfoInvalid, Blocked, ExitTrust,
		"cluster-info was read, but its content breaks a rule; the message names the field.",
		"Mend data.kubeconfig in the ConfigMap kube-public/cluster-info: exactly one cluster with `server` and `certificate-authority-data`, nothing else."},
	{NoSignatures, Slow, ExitRefused,
		"cluster-info carries no signature at all: the bootstrapsigner controller does not run, or no valid token with signing usage exists.",
		"Run kube-controller-manager with `--controllers=*,bootstrapsigner,tokencleaner` and make a token: `kubeadm token create`."},
	{TokenUnknown, Slow, ExitRefused,
		"cluster-info is signed for other tokens, not for ours: ours is unknown, expired, deleted, or has no usage-bootstrap-signing.",
		"See `kubeadm token list`; make a fresh token with `kubeadm token create` and give it to this machine with `bootstrap-agent token set`."},
	{SignatureMismatch, Slow, ExitTrust,
		"cluster-info carries a signature for our token id, but not one made with our secret over this content.",
		"The secret (the 16 characters after the dot) is wrong, the content was altered on the way, or a hand-made signature used more than the secret as key. Compare the token with `kubeadm token list`."},
	{CAPinMismatch, Blocked, ExitTrust,
		"None of the cluster's CA certificates has a configured pin.",
		"If the CA was really replaced, put the pin that the message shows into `caCertHashes`, after comparing it with one taken on the control plane."},
	{PinRequired, Blocked, ExitConfig,
		"Neither `caCertHashes` nor `unsafeSkipCAVerification: true` is configured.",
		"Put the pin that the message shows into `caCertHashes`, after comparing it with one taken on the control plane."},
	{ServerCertificateInvalid, Slow, ExitTrust,
		"A server showed a certificate that does not verify against the accepted CA for its name.",
		"Check that the endpoint is this cluster's API server, and that its certificate lists the name or address used here (--apiserver-cert-extra-sans). Where a joined node's cluster has really got another CA: `bootstrap-agent token set` with a fresh token, and the new pin in `caCertHashes`."},
	{ClockSkew, Slow, ExitMachine,
		"A certificate is valid by the server's clock, but not by this machine's.",
		"Set this machine's clock (chrony, systemd-timesyncd); the message has both times."},
	{TokenMissing, Blocked, ExitConfig,
		"A bootstrap token is needed now and there is none.",
		"On the control plane: `kubeadm token create` (without kubeadm: bootstrap-token.yaml of /usr/share/doc/bootstrap-agent/examples/cluster). Here: `bootstrap-agent token set`, which reads it from stdin; the agent then goes on by itself."},
	{TokenRejected, Slow, ExitRefused,
		"The API server answered 401 to the bootstrap token: expired or deleted since, without usage-bootstrap-authentication, or the server runs without --enable-bootstrap-token-auth.",
		"Look at the token's Secret, kube-system/bootstrap-token-ID. Make a fresh token with `kubeadm token create` and give it to this machine with `bootstrap-agent token set`."},
	{CSRForbidden, Slow, ExitRefused,
		"The token may not create certificate signing requests.",
		"Bind the role to the token's group (system:bootstrappers, or one of its auth-extra-groups): `kubectl create clusterrolebinding bootstrap-agent:create-csrs --clusterrole=system:node-bootstrapper --group=system:bootstrappers`."},
	{CSRPending, Slow, ExitTemporary,
		"The certificate signing request waits for approval.",
		"Approve it: `kubectl certificate approve NAME`. For automatic approval bind the role to the token's group: `kubectl create clusterrolebinding bootstrap-agent:approve-first-certificates --clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient --group=system:bootstrappers`."},
	{CSRDenied, Slow, ExitRefused,
		"Somebody denied the certificate signing request.",
		"Ask who denied it and why: `kubectl describe csr NAME`. The agent asks again with a new key."},
	{CSRFailed, Slow, ExitRefused,
		"The signer refused the certificate signing request.",
		"See the condition's message: `kubectl describe csr NAME`. The agent asks again with a new key."},
	{CSRDeleted, Slow, ExitRefused,
		"Somebody deleted the certificate signing request while its certificate was awaited.",
		"Nothing at first: the agent makes it again, with the same key. If it repeats, find out who deletes requests: the API server's audit log."},
	{CSRNotSigned, Slow, ExitTemporary,
		"The certificate signing request is approved, but nobody signs it.",
		"Check that kube-controller-manager runs with the csrsigning controller and has --cluster-signing-cert-file and --cluster-signing-key-file."},
	{CertificateInvalid, Blocked, ExitTrust,
		"The certificate that came back is not the one that was asked for; it was not installed.",
		"The message names what differs. Look at the signer for kubernetes.io/kube-apiserver-client-kubelet."},
	{NodeNameTaken, Slow, ExitRefused,
		"Another live machine is registered under this node name.",
		"Give this machine another `nodeName`, or stop the other one; `nodeNameTakeover: true` takes the name all the same."},
	{MachineChanged, Blocked, ExitMachine,
		"The records on this disk were made on another machine: this is a copy of one that had joined, or its mainboard was replaced. No token can serve to join anew, so nothing was changed.",
		"A copy: `bootstrap-agent token set`, then it joins anew with a key of its own; until then stop its kubelet, which runs under the other's name: `systemctl stop kubelet`. The same machine with another mainboard: `bootstrap-agent apply --same-machine`."},
	{KubeletMissing, Slow, ExitMachine,
		"There is no kubelet binary on this machine.",
		"Install the kubelet package, or name the binary in `kubelet.binary`. Looked for in /usr/bin, /usr/local/bin and /opt/bin."},
	{KubeletTooOld, Slow, ExitMachine,
		"The kubelet is older than this agent supports. No certificate was requested.",
		"Install a kubelet of at least 1.30, at most three minor versions older than the API server and not newer."},
	{RuntimeNotReady, Retry, ExitMachine,
		"No container runtime that a kubelet can use answers on its socket; the message says what is the case there.",
		"Install and start one (`systemctl enable --now containerd`), or name its socket in `kubelet.containerRuntimeEndpoint`."},
	{UnitMasked, Blocked, ExitMachine,
		"kubelet.service is masked.",
		"Somebody did that on purpose. When it may run: `systemctl unmask kubelet.service`."},
	{UnitOverridden, Blocked, ExitMachine,
		"What systemd would run for kubelet.service is not what the agent wrote, or this machine's own kubelet has flags or a configuration that would be lost.",
		"See `systemctl cat kubelet.service`. Keep each flag by the key that the hint names, or set `kubelet.dropFlags: true`; remove drop-ins that sort after 90-bootstrap-agent.conf and change ExecStart=."},
	{MachineUnfit, Slow, ExitMachine,
		"Something on this machine keeps a kubelet from running; the message says what.",
		"See `bootstrap-agent check --machine`: each row has its remedy."},
	{KubeletFailed, Retry, ExitMachine,
		"The kubelet did not start, or does not stay up.",
		"See its own last lines in the message, and `journalctl -u kubelet.service`."},
	{KubeletUnhealthy, Retry, ExitMachine,
		"The kubelet runs, but its health endpoint does not answer ok.",
		"See `journalctl -u kubelet.service`; the message has the address asked."},
	{NodeNotRegistered, Retry, ExitTemporary,
		"The kubelet is healthy, but its Node or Lease is not in the API yet.",
		"See `journalctl -u kubelet.service` for what the API server answers to it."},
	{ForeignKubelet, Blocked, ExitMachine,
		"This machine already has a kubelet identity that the agent did not make.",
		"To let the agent take it over: `bootstrap-agent adopt`. If it is not wanted any more, move the named files away (for kubeadm: `kubeadm reset`). Nothing was changed."},
	{NotAdoptable, Blocked, ExitMachine,
		"This machine's kubelet cannot be taken over as it is; the message says why.",
		"Nothing was changed. See \"Taking over a node\" in the documentation for what can be taken over."},
	{WriteFailed, Retry, ExitMachine,
		"A file could not be written whole and durable, or the disk does not give it.",
		"The message names path and cause: a full disk, a read-only file system, an immutable file, a disk that fails."},
	{Locked, Blocked, ExitLocked,
		"Another bootstrap-agent is at work on this machine.",
		"Use `bootstrap-agent status` to watch it, or stop it first: `systemctl stop bootstrap-agent`."},
	{ConfigInvalid, Blocked, ExitConfig,
		"The configuration breaks a rule; the message names key and rule.",
		"Mend the file and run `bootstrap-agent check --config`."},
	{CAOffered, Note, ExitDone,
		"The cluster shows other CAs than this node trusts. The message says when they are taken, or why they are not.",
		"Nothing if a CA rotation is under way; otherwise find out who changed cluster-info, or the discovery file. With `caRotation: pinned` compare each new pin with one taken on the control plane and put it into `caCertHashes`."},
	{ServerOffered, Note, ExitDone,
		"cluster-info, the discovery file or the config names another API server than the one that this node uses. The message says when it is followed, or why it is not.",
		"Nothing if the API moves. A server is followed only if it answers and its certificate verifies, for the name in its URL, under the CAs that this node trusts."},
	{CARefreshUnavailable, Note, ExitDone,
		"cluster-info cannot be read any more, so a CA rotation would not be noticed.",
		"Allow anonymous reads of kube-public/cluster-info, or name a kubeconfig with the cluster's CA in `discoveryFile`."},
	{RenewalNotAutomatic, Note, ExitDone,
		"This node's certificate will not be renewed by itself: nobody approves the kubelet's renewal requests.",
		"Bind the role to all nodes: `kubectl create clusterrolebinding bootstrap-agent:approve-renewals --clusterrole=system:certificates.k8s.io:certificatesigningrequests:selfnodeclient --group=system:nodes`."},
	{RenewalOverdue, Note, ExitDone,
		"The client certificate is past 90 % of its lifetime and has not been renewed.",
		"See `kubectl get csr` for a pending request of this node and `journalctl -u kubelet.service`."},
	{ReissuePending, Note, ExitDone,
		"This node's certificate is to be replaced before its end, and the new one, which is asked for with the old one, is not there yet. The node goes on with the old one.",
		"Nothing if it lasts no longer than `restartSplay`. Otherwise look for its request (`kubectl get csr`) and approve it: `kubectl certificate approve NAME`. RenewalNotAutomatic has the line that has all of them approved."},
	{ClientCAMissing, Note, ExitDone,
		"The API server takes client certificates of other CAs than those that this kubelet trusts, so it can most likely not reach the kubelet: `kubectl logs` and `exec` end with \"the server has asked for the client to provide credentials\".",
		"Put the CA that signed the API server's own client certificate (--kubelet-client-certificate; most often that of its --client-ca-file) on this machine and name it in `kubelet.clientCAFile`; or, if cluster-info's bundle holds it, pin it in `caCertHashes`, too."},
	{ServingCertificatePending, Note, ExitDone,
		"The kubelet asked the cluster for its serving certificate and has none yet: until then `kubectl logs` and `exec` end with \"remote error: tls: internal error\".",
		"Approve the request: `kubectl get csr --field-selector spec.signerName=kubernetes.io/kubelet-serving`, then `kubectl certificate approve NAME`. No controller of Kubernetes approves these by itself."},
	{NodeDeleted, Note, ExitDone,
		"This machine's Node object was deleted; the agent does not register it again.",
		"If that was meant, run `systemctl disable --now bootstrap-agent kubelet`; if not, `systemctl restart kubelet` registers it again."},
	{NodeNotReady, Note, ExitDone,
		"The node is joined, but not Ready; the message is the kubelet's own.",
		"Most often the pod network (CNI) is missing: it is installed by the cluster, not by this agent."},
	{KubeletStopped, Note, ExitDone,
		"The kubelet was stopped, disabled or masked by a person; the agent leaves it so.",
		"When it may run again: `systemctl enable --now kubelet`."},
	{TokenLeftBehind, Note, ExitDone,
		"A kubeconfig on this joined node still holds a bootstrap token; whoever reads it can ask for certificates in the name of any node.",
		"Remove the file, or take the token out of it; the message names the file."},
	{Drifted, Note, ExitDone,
		"Files or unit differ from what the agent would write.",
		"See what differs: `bootstrap-agent apply --dry-run`. `bootstrap-agent apply` brings them to what is wanted; until then they are left as they are."},
	{VersionSkew, Note, ExitDone,
		"Kubelet and API server are further apart than Kubernetes supports. Most such pairs work.",
		"Install a kubelet of the API server's minor version, or up to three older."},
	{MachineWarning, Note, ExitDone,
		"Something on this machine is not as a node should be; the kubelet runs all the same.",
		"See `bootstrap-agent check --machine`: each row has its remedy."},
	{MetricsUnavailable, Note, ExitDone,
		"The agent cannot listen on `metricsAddress`, so nobody can read its metrics there.",
		"Find out who listens there (`ss -ltnp`), or choose another address of this machine and a port from 1024 on. The agent tries again every minute; /run/bootstrap-agent/metrics.prom has the same content."},
}
