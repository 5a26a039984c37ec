package fault

import (
	"regexp"
	"testing"
)

// The ids stand in people's queries and in catalogs of older packages: they never
// change. Whoever adds a reason adds its line; nobody ever edits one.
func TestTheIDsInTheJournalAreForEver(t *testing.T) {
	want := map[string]string{
		"EndpointUnreachable":        "75789657240e81ad9f731f94ec0724c8",
		"DNSFailure":                 "c73d2ef327ff8c309eec06decc054ecf",
		"TLSHandshakeFailed":         "8e3b8e9e6de580b4ace9958e884e669b",
		"Throttled":                  "fe314458b01a8d6aa2c13a3d9f42a5d3",
		"ServerError":                "ec8184fc683d8cbcb590ca2ea190cc3e",
		"ClusterInfoMissing":         "fe25960c36da851d94ee905a742f8e14",
		"ClusterInfoForbidden":       "0c1b16afdde384729172d92008cc101d",
		"ClusterInfoInvalid":         "7bd043531ffb85cfb340572af64cb5ca",
		"NoSignatures":               "c78162818f4886e9a707707d40c8812a",
		"TokenUnknown":               "e217c7e1db3880ec96d9edbe27126e4b",
		"SignatureMismatch":          "a69f9ea2469f88b2aaa3da75709cbd81",
		"CAPinMismatch":              "46be4fa850648526807689bd6e9d0985",
		"PinRequired":                "cbb9a1aef7c88d9ba8ddfbae414ba0a6",
		"ServerCertificateInvalid":   "2e75aa2118c28030a9714d95f395f069",
		"ClockSkew":                  "443d9020288a81b999a40b24fc8903ae",
		"TokenMissing":               "cd8e9415b8c68cdf9eb1507b4aa81abb",
		"TokenRejected":              "cdca60bfb3568a86b7f26c3f2e88e58a",
		"CSRForbidden":               "ea826a1f694e8cf8b53e780e6588a135",
		"CSRPending":                 "805ec9f9b14c86f78e7dcfd58f69f77f",
		"CSRDenied":                  "a58dbd2491aa81dca5c027f584041048",
		"CSRFailed":                  "7aebe729e26e8b13a73b0e1d728878a1",
		"CSRDeleted":                 "082fe01905da8e27bf147d988e4e1223",
		"CSRNotSigned":               "a5debb61d85f848e994a519b637c46c6",
		"CertificateInvalid":         "464e65f72a0d84c5a6c9d423bec6819e",
		"NodeNameTaken":              "2c6575a65bf38fc7a05f3a129488f64b",
		"KubeletMissing":             "57ef5a479dfd887eb2cc6c4d70306820",
		"KubeletTooOld":              "d94210e803878da987770495889b0b89",
		"RuntimeNotReady":            "9773b7cbdc99864c8353f60717240698",
		"UnitMasked":                 "8b7869bbfa828ddcbe5ed467b28f5992",
		"UnitOverridden":             "16b2474dbe13864f9b0284d8bc8716ee",
		"MachineUnfit":               "6e80808978528ea383e888bce0e561c8",
		"KubeletFailed":              "abbf04dc84a3820c97828ae8d6d6e985",
		"KubeletUnhealthy":           "63e35481eb698657b8a489a39fe5a3a2",
		"NodeNotRegistered":          "57949a96aae085de89db08a45abd2ea9",
		"ForeignKubelet":             "f9a69fd266b28cad87b182f63954932e",
		"WriteFailed":                "1b20db9d90b78186b907a31402f477a5",
		"Locked":                     "b4d5b7072f8981d9816224ac09dc8c7d",
		"ConfigInvalid":              "d30110228d61877793870209c506ead2",
		"CAOffered":                  "97e59db759588375ad6979e03f94b265",
		"ServerOffered":              "2307150173c08e548f5eef22960441a0",
		"CARefreshUnavailable":       "79a0f20f24418998b8151b80d44ae0f0",
		"RenewalNotAutomatic":        "6dc6bccf053d8fe999fd34d11dc9c202",
		"RenewalOverdue":             "8204206405f9852da5021e9bb345f52c",
		"ReissuePending":             "d2715b0a998f8fad884de350b6797fc9",
		"ClientCAMissing":            "a4c9bf07f97a8c76bb4574bb55c70c02",
		"ServingCertificatePending":  "504f107f58fc8d4ba92cc4de20a22eb1",
		"NodeDeleted":                "1af43858c06a8c23814174745f787f4e",
		"NodeNotReady":               "1e1d8661d1d38a74a49aff65502f7379",
		"KubeletStopped":             "bb415161a70c8381962f5025738c75a6",
		"TokenLeftBehind":            "551c86506a918ce88fdbc7607ba848a1",
		"Drifted":                    "7434fb9b02d881019bdedf8f1e4df179",
		"VersionSkew":                "c1a5bd0633ed818187f4381760d97c00",
		"MachineWarning":             "6d4eaa99b78687358227b77e449023c4",
		"MetricsUnavailable":         "4b24f76374fd8f0e80b2817dcf73a191",
		"MachineChanged":             "3c0a7e47335882b79dfa51539388406f",
		"NotAdoptable":               "b392fab6fedd896f8bb23545b6b28246",
		"event Joined":               "53090789f4018b2095955c211f807f97",
		"event CertificateInstalled": "308b7b0f02948090ac4901262d0571c8",
		"event KubeletStarted":       "bcbaa51c3e908725b51a4cf49c13986d",
		"event KubeletRestarted":     "99c9ffbfdb0980268a0a19d57c0bd35b",
		"event KubeletStopped":       "439122cfae8180a0bf0f809ac984b761",
		"event CATaken":              "b8b6c1a15dcb807489514cbaf5e297cf",
		"event ServerMoved":          "ea7d9d224be48c6bb254de851f40b759",
	}
	form := regexp.MustCompile(`^[0-9a-f]{12}8[0-9a-f]{3}[89ab][0-9a-f]{15}$`)
	seen := map[string]bool{}
	check := func(name, id string) {
		t.Helper()
		if want[name] != id {
			t.Errorf("missing or changed:\n\t\t%q: %q,", name, id)
		}
		if !form.MatchString(id) || seen[id] {
			t.Errorf("%s: %s is no id of its own", name, id)
		}
		seen[id] = true
	}
	for _, e := range All() {
		check(string(e.Reason), e.Reason.MessageID())
	}
	for _, e := range Events() {
		check("event "+string(e.Event), e.Event.MessageID())
	}
	if len(seen) != len(want) {
		t.Errorf("%d ids, want %d", len(seen), len(want))
	}
}
