"""Environment variables that look like settings and are none."""

import pytest
from comfyui_tryon.settings import Settings, SettingsError


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TRYON_API_KEYS", "Did you mean TRYON_API_KEY?"),
        ("TRYON_APIKEY", "Did you mean TRYON_API_KEY?"),
        ("TRYON_TIMEOUT", "Did you mean TRYON_TIMEOUT_S?"),
        ("tryon_max_que", "Did you mean TRYON_MAX_QUEUE?"),
        ("tryon_workflow", "Did you mean TRYON_WORKFLOW?"),
        ("Tryon_Port", "Did you mean PORT?"),
        ("TRYON_PORT", "Did you mean PORT?"),
        ("TRYON_LISTEN", "Did you mean LISTEN?"),
        ("TRYON_EXIT_IF_FAILED", "Did you mean TRYON_EXIT_WHEN_FAILED?"),
        ("TRYON_ZZZZZZ", "The README lists all settings"),
        ("TRYON_", "The README lists all settings"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_name(read_settings, name, meant):
    with pytest.raises(SettingsError) as caught:
        read_settings(**{name: "8123"})
    message = str(caught.value)
    assert message.startswith(f"Bad settings. {name}: ") and meant in message and "8123" not in message


def test_all_that_is_wrong_is_named_at_once(read_settings):
    with pytest.raises(SettingsError, match=r"TRYON_KEY.*TRYON_WARM_UP.*TRYON_WARMUP\?.*TRYON_MAX_QUEUE"):
        read_settings(TRYON_MAX_QUEUE="lots", TRYON_KEY="k", TRYON_WARM_UP="1")


def test_what_kubernetes_and_the_clients_set_is_let_be(read_settings):
    links = {
        "TRYON_SERVICE_HOST": "10.0.0.1",
        "TRYON_SERVICE_PORT": "80",
        "TRYON_SERVICE_PORT_HTTP": "80",
        "TRYON_PORT": "tcp://10.0.0.1:80",
        "TRYON_PORT_80_TCP": "tcp://10.0.0.1:80",
        "TRYON_PORT_80_TCP_ADDR": "10.0.0.1",
        "TRYON_WORKERS_PORT_8000_TCP_PROTO": "tcp",
        "TRYON_WORKERS_SERVICE_HOST": "10.0.0.2",
        "TRYON_URL": "http://127.0.0.1:8000",
        "TRYON_MAX_QUEUE": "3",
    }
    assert read_settings(**links).max_queue == 3


def test_every_setting_is_known(read_settings):
    variables = {str(field.validation_alias): "" for field in Settings.model_fields.values()}
    assert read_settings(**variables) == Settings()


def test_other_programs_variables_in_lower_case_are_let_be(read_settings):
    assert read_settings(port="1", listen="nowhere", port_health="x") == Settings()


@pytest.mark.parametrize("name", ["PORT", "PORT_HEALTH"])
@pytest.mark.parametrize("value", ["8110.0", "8e3", "-1", "port", "0", "65536"])
def test_ports_are_whole_numbers_as_comfyui_takes_them(read_settings, name, value):
    with pytest.raises(SettingsError, match=f"Bad settings. {name}: .*{value}"):
        read_settings(**{name: value})


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0,::", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("127.0.0.2", "127.0.0.2"),
        ("localhost", "localhost"),
    ],
)
def test_the_servers_url_is_one_that_it_listens_on(listen, host):
    assert Settings(listen=listen, port=8123).local_url() == f"http://{host}:8123"
