"""The refusals of the sandbox, in the shape in which ERP.net reports errors (domain-api/.../error-handling.md)."""

_SERVER_EXCEPTION = "Aloe.EnterpriseOne.Server.ServerAPI.Exceptions.EnterpriseOneServerException"


class ErpError(Exception):
    """A refused operation. `kind` is the .NET exception type that a client sees as `type`."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 500,
        code: int = 0,
        kind: str = _SERVER_EXCEPTION,
        message_format: str | None = None,
        parameters: list[str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.kind = kind
        self.message_format = message_format
        self.parameters = parameters

    def body(self, *, wrapped: bool) -> dict[str, object]:
        """The JSON object to answer; both the wrapped and the bare form are documented."""
        error: dict[str, object] = {
            "message": self.message,
            "code": self.code,
            "type": self.kind,
            "info": "",
            "messageFormat": self.message_format,
            "parameters": self.parameters,
        }
        return {"error": error} if wrapped else error


def unsupported(message: str) -> ErpError:
    """A query feature which ERP.net does not have."""
    return ErpError(message, kind="NotSupportedException")


def malformed(message: str) -> ErpError:
    """A request that cannot be read."""
    return ErpError(message, status=400, kind="ArgumentException")


def unknown_property(name: str, type_name: str) -> ErpError:
    """A property which the type does not have."""
    return ErpError(
        f"Could not find a property named '{name}' on type 'Erp.{type_name}'.",
        status=400,
        kind="ODataException",
    )


def not_found(what: str) -> ErpError:
    """An entity set, operation or row which does not exist."""
    return ErpError(f"{what} was not found.", status=404)


def refused(message: str) -> ErpError:
    """A write which the rules of the application do not allow."""
    return ErpError(message, kind="InvalidOperationException")


def duplicate(table: str, attribute: str, value: str) -> ErpError:
    """A second row with a value that has to be unique (code 2129)."""
    index = f"IX_{table}_{attribute}"
    text = "Prohibited duplication in table '{0}'. The index '{1}' already has the value '{2}'. Index: '{3}'."
    parameters = [f"dbo.{table}_Table", index, value, index]
    return ErpError(text.format(*parameters), code=2129, message_format=text, parameters=parameters)


def rule_broken(type_name: str, rule: str, name: str, explanation: str) -> ErpError:
    """A business rule that failed at commit (code 2029)."""
    return ErpError(
        f"Save of {type_name} failed.\nThe validation {rule}: {name} failed for event Commit:\n\n"
        f"{explanation} (Constraint {rule})",
        code=2029,
    )
