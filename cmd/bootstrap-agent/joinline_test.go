package main

import (
	"reflect"
	"strings"
	"testing"
)

func TestJoinLineInAllSpellings(t *testing.T) {
	rows := []struct{ name, text string }{
		{"as printed", joinText},
		{"over several lines", "kubeadm join 10.0.0.1:6443 --token " + goodToken + " \\\n\t--discovery-token-ca-cert-hash " + pin + " \n"},
		{"with Windows line ends", "kubeadm join 10.0.0.1:6443 --token " + goodToken + " \\\r\n\t--discovery-token-ca-cert-hash " + pin + "\r\n"},
		{"with blanks after the backslash", "kubeadm join 10.0.0.1:6443 --token " + goodToken + " \\  \n --discovery-token-ca-cert-hash " + pin},
		{"with the backslash lost", "kubeadm join 10.0.0.1:6443 --token " + goodToken + "\n  --discovery-token-ca-cert-hash " + pin},
		{"with equals signs", "kubeadm join --token=" + goodToken + " --discovery-token-ca-cert-hash=" + pin + " 10.0.0.1:6443"},
		{"with quotes", "kubeadm join \"10.0.0.1:6443\" --token '" + goodToken + "' --discovery-token-ca-cert-hash=\"" + pin + "\""},
		{"with a prompt and sudo", "$ sudo " + joinText},
		{"with root's prompt", "[root@cp ~]# " + joinText},
		{"with another prompt and sudo's flags", "admin@cp:~$ sudo -E /usr/bin/" + joinText},
		{"with kubeadm's warning before it", "W1122 10:11:12.123456    1 version.go:1] could not fetch\n" + joinText},
		{"with comment and empty lines", "# the line\n\n" + joinText + "\n\n"},
		{"folded into one line", "kubeadm join 10.0.0.1:6443 --token " + goodToken + " \\ --discovery-token-ca-cert-hash " + pin},
		{"folded, with nothing before the backslash", "kubeadm join 10.0.0.1:6443 --token " + goodToken + "\\ \t--discovery-token-ca-cert-hash " + pin},
		{"with empty lines where it was broken", "kubeadm join 10.0.0.1:6443 --token " + goodToken + " \\\n\n\t--discovery-token-ca-cert-hash " + pin},
		{"in all that kubeadm init says", initText},
		{"in the output of a cloud's console", "Cloud-init v. 22.4.2 running 'modules:final' at Sun\n\x1b[1;32mWHOAMI's\x1b[0m `x` $(id) \"\n" + joinText + "it's done\n"},
		{"with a no-break space from a web page", strings.Replace(joinText, " --token", "\u00a0--token", 1)},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			line, err := parseJoinLine(row.text)
			if err != nil {
				t.Fatal(err)
			}
			if line.endpoint != "10.0.0.1:6443" || line.token != goodToken || len(line.pins) != 1 || line.pins[0] != pin {
				t.Errorf("got %q, %d pins", line.endpoint, len(line.pins))
			}
		})
	}
}

// initText is what kubeadm init prints at its end where certificates were uploaded.
const initText = `Your Kubernetes control-plane has initialized successfully!

To start using your cluster, you need to run the following as a regular user:

  mkdir -p $HOME/.kube
  sudo cp -i /etc/kubernetes/admin.conf $HOME/.kube/config
  sudo chown $(id -u):$(id -g) $HOME/.kube/config

You should now deploy a pod network to the cluster.
Run "kubectl apply -f [podnetwork].yaml" with one of the options listed at:
  https://kubernetes.io/docs/concepts/cluster-administration/addons/

You can now join any number of control-plane nodes running the following command on each as root:

  kubeadm join 10.0.0.1:6443 --token ` + goodToken + ` \
	--discovery-token-ca-cert-hash ` + pin + ` \
	--control-plane --certificate-key 0123456789abcdef

Please note that the certificate-key gives access to cluster sensitive data, keep it secret!
As a safeguard, uploaded-certs will be deleted in two hours; If necessary, you can use
"kubeadm init phase upload-certs --upload-certs" to reload certs afterward.

Then you can join any number of worker nodes by running the following on each as root:

kubeadm join 10.0.0.1:6443 --token ` + goodToken + ` \
	--discovery-token-ca-cert-hash ` + pin + ` 
`

func FuzzJoinLine(f *testing.F) {
	f.Add(joinText)
	f.Add(initText)
	f.Add("kubeadm join a --token b \\ --discovery-token-ca-cert-hash c")
	f.Add("$ sudo kubeadm join a \\\n --token='b' --discovery-token-ca-cert-hash \"c\"")
	f.Add("kubeadm join a --token x --control-plane")
	f.Add("\\")
	f.Add("\"\\")
	f.Fuzz(func(t *testing.T, text string) {
		line, err := parseJoinLine(text)
		if err == nil && (line.endpoint == "" || line.token == "") {
			t.Errorf("a line without endpoint or token was accepted")
		}
		if err != nil {
			return
		}
		among, err := parseJoinLine("They said:\n\n" + strings.TrimPrefix(text, "\ufeff") + "\nIt's said.\n")
		if err != nil || !reflect.DeepEqual(among, line) {
			t.Errorf("among other lines it is %+v (%v), alone %+v", among, err, line)
		}
	})
}
