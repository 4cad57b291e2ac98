def install_anyio():
    pass
def remove_anyio():
    pass
